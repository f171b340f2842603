"""The numbers of models that were asked, to which a limit may be set: which way each is better.

Those of divergence are metrics (metrics.registry).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from secateur.evaluation.metrics.base import Better
from secateur.evaluation.robustness.detectors.base import GROUPS
from secateur.evaluation.robustness.registry import all_detectors

_TASKS: Mapping[str, Better] = {
    "accuracy": "higher",
    "accuracy_as_read": "higher",
    "accuracy_best": "higher",
    "accuracy_patched": "higher",
    "aggregate": "higher",
    "accuracy_difference": "higher",
    "flips_lost": "lower",
    "calibration_overlap": "lower",
    "empty": "lower",
    "truncated": "lower",
    "unparsed": "lower",
    "swallowed": "lower",
    "server_error": "lower",
}
_SPEED: Mapping[str, Better] = {
    "prefill_speed": "higher",
    "generation_speed": "higher",
    "time_to_first_token": "lower",
    "prefill_cpu": "lower",
    "generation_cpu": "lower",
    "peak_memory": "lower",
}


def is_relative(name: str) -> bool:
    """Whether a number sets an artefact beside the original."""
    return name == "flips_lost" or name.endswith(("_difference", "_ratio"))


class AskedNumber(NamedTuple):
    """What it is measured on ("tasks", "loops", "speed"), and which way is better."""

    kind: str
    better: Better


@cache
def asked_numbers() -> Mapping[str, AskedNumber]:
    """All of them, by name. Raises ValueError for a detector that has the name of another one."""
    rates = ["degenerate_rate", *(f"{group}_rate" for group in GROUPS), "truncated_rate"]
    loops = [*rates, "degenerate_rate_difference", "loop_rate_difference", "server_errors"]
    loops += [detector.name for detector in all_detectors()]
    ratios = {f"{name}_ratio": better for name, better in _SPEED.items()}
    found = {name: AskedNumber("tasks", better) for name, better in _TASKS.items()}
    found |= {name: AskedNumber("speed", better) for name, better in {**_SPEED, **ratios}.items()}
    if doubled := found.keys() & set(loops):
        raise ValueError(f"the detector {min(doubled)!r} has the name of another number")
    return found | {name: AskedNumber("loops", "lower") for name in loops}
