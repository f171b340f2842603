"""From scores to the experts that stay: counts, protection, groups, drop maps."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.errors import PlanError
from secateur.statistics.statistics import Statistics

Keep = Mapping[int, tuple[int, ...]]
"""{MoE layer: the experts that stay, ascending}."""


@dataclass(frozen=True)
class Constraints:
    """What a selection must respect.

    `groups` experts lie side by side in equal groups of which a token uses `used_groups`
    (DeepSeek's group-limited routing); 1 means no groups. `protected` experts stay.
    """

    experts: int
    top_k: int
    groups: int = 1
    used_groups: int = 1
    protected: Mapping[int, Collection[int]] = field(default_factory=dict)


def kept_count(experts: int, *, keep: int | None = None, drop: float | None = None) -> int:
    """How many experts stay: `keep` itself, or what is left after dropping int(E * drop).

    The reference counts the dropped ones and rounds down: 0.30 of 128 leaves 90, 0.20 leaves
    103. Raises PlanError unless exactly one of the two is given and makes sense.
    """
    if (keep is None) == (drop is None):
        raise PlanError(
            "say either how many experts stay (--experts N) or what share goes (--drop R; "
            "0 keeps them all)"
        )
    if drop is not None:
        if not 0.0 <= drop < 1.0:
            raise PlanError(f"--drop is {drop}, expected a share of at least 0 and less than 1")
        return experts - int(experts * drop)
    if keep is None or not 1 <= keep <= experts:
        raise PlanError(f"--experts is {keep}, but the model has {experts} experts per layer")
    return keep


def check_count(keep: int, constraints: Constraints) -> None:
    """Raises PlanError when `keep` experts per layer would leave a router that cannot choose."""
    limits = constraints
    if keep < limits.top_k:
        raise PlanError(
            f"{keep} experts would stay, but each token is sent to {limits.top_k}: "
            f"keep at least {limits.top_k}"
        )
    if limits.groups == 1:
        return
    if keep % limits.groups:
        lower = keep - keep % limits.groups
        raise PlanError(
            f"{keep} experts cannot be shared by {limits.groups} groups of equal size: "
            f"keep {lower} or {lower + limits.groups}"
        )
    # A group's own score is the sum of its best two, so one expert is not enough either.
    least = max(2, -(-limits.top_k // limits.used_groups)) * limits.groups
    if keep < least:
        raise PlanError(
            f"{keep} experts would leave {keep // limits.groups} in each of {limits.groups} "
            f"groups, but a token takes {limits.top_k} out of {limits.used_groups} groups: "
            f"keep at least {least}"
        )


def select(
    scores: Mapping[int, NDArray[np.float64]],
    keep: int,
    constraints: Constraints,
    tokens: Mapping[int, NDArray[np.int64]] | None = None,
) -> dict[int, tuple[int, ...]]:
    """The `keep` best experts of every layer, ascending.

    Of equal scores the expert with fewer `tokens` [E] goes first, then the higher number.
    Raises PlanError when the count, the groups or the protection cannot be met.
    """
    check_count(keep, constraints)
    chosen = {}
    for layer, values in scores.items():
        seen = tokens[layer] if tokens is not None else np.zeros(values.size, np.int64)
        safe = np.zeros(values.size, np.bool_)
        safe[list(constraints.protected.get(layer, ()))] = True
        best_first = np.lexsort((np.arange(values.size), -seen, -values, ~safe))
        size = values.size // constraints.groups
        share = keep // constraints.groups
        kept: list[int] = []
        for group in range(constraints.groups):
            members = best_first[best_first // size == group]
            if int(safe[members].sum()) > share:
                raise PlanError(
                    f"layer {layer} protects {int(safe[members].sum())} experts"
                    f"{f' of group {group}' if constraints.groups > 1 else ''}, but only {share} "
                    "stay: protect fewer, or keep more"
                )
            kept.extend(int(expert) for expert in members[:share])
        chosen[layer] = tuple(sorted(kept))
    return chosen


def super_experts(statistics: Statistics, *, everywhere: bool = False) -> dict[int, set[int]]:
    """Experts whose largest activation stands out, per layer.

    The reference's rule (Cerebras reap, model_util.py): above max(99.5 % quantile, a tenth of
    the largest) over all layers; in the first three quarters of the MoE layers unless
    `everywhere`. Unlike the reference, keyed by decoder layer.
    """
    layers = statistics.layers
    largest = np.stack([statistics.largest(layer).max(0) for layer in layers])
    threshold = max(float(np.quantile(largest, 0.995)), float(largest.max()) / 10)
    last = len(layers) if everywhere else int(0.75 * len(layers))
    found = {
        layer: {int(e) for e in np.flatnonzero(largest[row] > threshold)}
        for row, layer in enumerate(layers[:last])
    }
    return {layer: experts for layer, experts in found.items() if experts}


def hints(keep: int) -> list[str]:
    """What a user of servers with expert parallelism should know about the count."""
    usual = [ranks for ranks in (2, 4, 8) if keep % ranks]
    if not usual:
        return []
    below, above = keep - keep % 8, keep - keep % 8 + 8
    return [
        f"{keep} experts per layer cannot be split evenly over {', '.join(map(str, usual))} "
        f"ranks: servers with expert parallelism prefer {f'{below} or ' if below else ''}{above}"
    ]


def drop_map(keep: Keep, experts: int) -> dict[str, Any]:
    """The selection as JSON: per layer what stays and what goes."""
    return {
        "experts": experts,
        "layers": {
            str(layer): {
                "keep": list(kept),
                "drop": sorted(set(range(experts)) - set(kept)),
            }
            for layer, kept in sorted(keep.items())
        },
    }


def read_drop_map(path: Path, experts: int, layers: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Read a drop map: per layer `keep`, `drop`, or both.

    Raises PlanError for a file that is no such JSON, names unknown layers or experts, leaves a
    layer out, or contradicts itself.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        entries = {int(layer): entry for layer, entry in data["layers"].items()}
    except OSError as error:
        raise PlanError(f"cannot read drop map {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(
            f"{path} is no drop map ({error!r}): expected "
            '{"layers": {"0": {"drop": [numbers]}, ...}}'
        ) from None
    if set(entries) != set(layers):
        odd = sorted(set(entries) ^ set(layers))
        raise PlanError(
            f"{path} and the model differ in MoE layers {odd[:5]}: the model has "
            f"{len(layers)} ({layers[0]} to {layers[-1]})"
        )
    return {layer: _kept(path, layer, entries[layer], experts) for layer in layers}


def _kept(path: Path, layer: int, entry: Any, experts: int) -> tuple[int, ...]:
    every = set(range(experts))
    named: dict[str, set[int]] = {}
    for word in ("keep", "drop"):
        numbers = entry.get(word) if isinstance(entry, dict) else None
        if numbers is None:
            continue
        if not isinstance(numbers, list) or not all(type(n) is int and n in every for n in numbers):
            raise PlanError(
                f"{path}, layer {layer}: {word!r} must list expert numbers 0 to {experts - 1}"
            )
        named[word] = set(numbers)
    if not named:
        raise PlanError(f"{path}, layer {layer}: has neither 'keep' nor 'drop'")
    keep = named.get("keep", every - named.get("drop", set()))
    if "drop" in named and keep != every - named["drop"]:
        raise PlanError(f"{path}, layer {layer}: 'keep' and 'drop' contradict each other")
    return tuple(sorted(keep))
