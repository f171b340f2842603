"""How far two orders of models agree: resampled intervals, rank correlation, pairs told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 2000


Values = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """What was measured of one model: sums of divergence by document, scores by suite and item,
    and marks by prompt (share of its replies)."""

    divergence: Values
    tasks: Mapping[str, Mapping[str, float]]
    degenerate: Mapping[str, list[float]]
    loops: Mapping[str, list[float]]


class Resampled:
    """Every measure of all models for `RESAMPLES` resamples, and for the sample itself first."""

    def __init__(self, measured: Mapping[str, Measured], tokens: Values) -> None:
        rng = np.random.default_rng(0)
        self.names = list(measured)
        found = list(measured.values())

        def draws(count: int) -> NDArray[np.intp]:
            drawn = rng.integers(0, count, (RESAMPLES, count))
            return np.concatenate([np.arange(count)[None], drawn])

        at = draws(len(tokens))
        self.divergence = np.stack([m.divergence[at].sum(-1) / tokens[at].sum(-1) for m in found])
        self.by_task = {}
        for task in found[0].tasks:
            table = np.array([list(m.tasks[task].values()) for m in found])
            self.by_task[task] = table[:, draws(table.shape[1])].mean(-1)
        self.accuracy = np.mean(list(self.by_task.values()), axis=0)
        for name in ("degenerate", "loops"):
            rows = [[np.mean(v) for v in getattr(m, name).values()] for m in found]
            setattr(self, name, np.array(rows)[:, draws(len(rows[0]))].mean(-1))


def interval(values: Values) -> dict[str, float]:
    """The first value, and the 95 % percentile interval of the others."""
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return {"value": digits(values[0]), "low": digits(low), "high": digits(high)}


def digits(value: float) -> float:
    return float(f"{value:.4g}")


def tau(first: Values, second: Values) -> float:
    found = stats.kendalltau(first, second).statistic
    return 0.0 if np.isnan(found) else float(found)


def concordance(worse: Values, other: Values, groups: Sequence[Sequence[int]]) -> dict[str, float]:
    """Kendall's tau between two measures of which higher is worse: mean over groups of models."""
    taus = np.array(
        [
            np.mean([tau(worse[list(g), r], other[list(g), r]) for g in groups])
            for r in range(worse.shape[1])
        ]
    )
    return interval(taus)


def pairs(table: Mapping[str, Values], members: Sequence[int]) -> dict[str, Any]:
    """Pairs of models by whether two measures order them, and in the same way."""
    (one, worse), (other, second) = table.items()
    counts = {"pairs": 0, "both ordered, same": 0, "both ordered, opposite": 0}
    counts |= {f"only by {one}": 0, f"only by {other}": 0, "by neither": 0}
    for a, b in combinations(members, 2):
        signs = []
        for values in (worse, second):
            low, high = np.quantile(values[a, 1:] - values[b, 1:], (0.025, 0.975))
            signs.append(0 if low <= 0 <= high else int(np.sign(low)))
        counts["pairs"] += 1
        if all(signs):
            counts["both ordered, " + ("same" if signs[0] == signs[1] else "opposite")] += 1
        elif any(signs):
            counts[f"only by {one if signs[0] else other}"] += 1
        else:
            counts["by neither"] += 1
    return counts
