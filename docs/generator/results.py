"""The JSON of benchmarks/, and the numbers of it that pages show. Nothing is written by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
OURS, THEIRS, NEAREST = "rerouted", "reap", "weighted_frequency"


@cache
def result(name: str) -> Any:
    """What the benchmark of that name measured, without how that stands to its goals."""
    found = json.loads((BENCHMARKS / f"{name}.json").read_text("utf-8"))
    if isinstance(found, dict):
        found.pop("goals", None)
    return found


OF_E166427 = {
    "calibration": "f1ec4560d2903653",
    "memory": "8fd750890abf76a3",
    "pruning": "e3032ec4cbe7c0ad",
    "gguf_speed": "81ef27fefe1fe003",
}
"""Results of 21 November 2026, commit e166427, by a hash of what they measured: until that is done
again, pages say so."""


def age(name: str) -> str:
    """A sentence on a result that is older than the code; empty for one that was measured since."""
    digest = hashlib.sha256(json.dumps(result(name)).encode()).hexdigest()
    if OF_E166427.get(name) != digest[:16]:
        return ""
    return (
        " Measured at commit e166427; the packages were laid out anew since, with the same inner "
        "loops (compared once, [log.md](log.md))."
    )


class Spread(NamedTuple):
    """A number with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


class Loss(NamedTuple):
    """What dropping a share of the experts by a criterion cost, also as a share of two others."""

    kl: Spread
    of_reap: Spread
    of_ours: Spread

    @property
    def like_ours(self) -> bool:
        """Whether it cannot be told apart from ours."""
        return self.of_ours.low <= 1 <= self.of_ours.high

    @property
    def ours_of_it(self) -> Spread:
        """Ours as a share of it: the same ratio, turned over."""
        return Spread(1 / self.of_ours.value, 1 / self.of_ours.high, 1 / self.of_ours.low)


def losses(calibrated_on: str = "all") -> dict[tuple[str, float], Loss]:
    """(criterion, share dropped) -> loss; what was measured again replaces what was before."""
    rows: dict[tuple[str, float], Loss] = {}
    for name in ("criteria", "criteria_some"):
        for row in result(name)[f"calibrated_on_{calibrated_on}"]:
            rows[row["criterion"], row["dropped"]] = Loss(
                Spread(**row["divergence"]), Spread(**row["of_reap"]), Spread(**row["of_rerouted"])
            )
    return rows


def shares() -> list[float]:
    """The shares of the experts that were dropped."""
    return sorted({share for _, share in losses()})


def criteria() -> list[str]:
    """The criteria, by what half of the experts cost on average over the shares."""
    found = losses()
    names = {name for name, _ in found}
    return sorted(names, key=lambda name: sum(found[name, share].kl.value for share in shares()))


def held_out() -> tuple[int, int]:
    """Documents and tokens that criteria are compared on."""
    parts: Mapping[str, Mapping[str, int]] = result("criteria")["held_out"]
    return sum(p["documents"] for p in parts.values()), sum(p["tokens"] for p in parts.values())


def percent(share: float) -> str:
    """12.5 %"""
    return f"{100 * share:g} %"


def gib(nbytes: float) -> str:
    """3.31 GiB"""
    return f"{nbytes / 2**30:.2f} GiB"


def gb(nbytes: float) -> str:
    """0.33 GB"""
    return f"{nbytes / 1e9:.2f} GB"


def median_of(runs: list[dict[str, Any]], key: str) -> float:
    """The median of a number of repeated runs."""
    return sorted(float(run[key]) for run in runs)[len(runs) // 2]


def seconds_of(runs: list[dict[str, Any]]) -> str:
    """How long runs took, by their median."""
    return f"{median_of(runs, 'seconds'):.0f} s"


def peak_of(runs: list[dict[str, Any]]) -> float:
    """The largest resident memory of runs, in bytes."""
    return max(float(run["peak_rss_bytes"]) for run in runs)


def written_of(runs: list[dict[str, Any]]) -> float:
    """The bytes that runs wrote, by their median."""
    return median_of(runs, "bytes_written")
