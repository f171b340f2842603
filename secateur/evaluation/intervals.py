"""Bootstrap intervals that resample answers, not tokens.

The tokens of one answer depend on each other: an interval over tokens as if they were drawn
one by one is several times too narrow. So whole answers are drawn with replacement (the
cluster bootstrap: Davison & Hinkley 1997, section 3.8) and a statistic is computed over all
tokens of the answers drawn; the interval is the percentile one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 2000
CONFIDENCE = 0.95
_BATCH_ELEMENTS = 1 << 22
"""Elements of a resampled table held at once (32 MiB of float64)."""

Draws = NDArray[np.intp]
"""Indices of the answers drawn: [..., A]."""


class Interval(NamedTuple):
    """A statistic of all answers, and its bounds (None when there is one answer only)."""

    value: float
    low: float | None
    high: float | None


class Clusters:
    """Values of tokens, grouped by the answer they belong to, ready to be resampled."""

    def __init__(self, values: NDArray[np.float64], answer: NDArray[np.intp]) -> None:
        """`values` [N], `answer` [N]: the number of each token's answer, in any numbering."""
        _, self._answer = np.unique(answer, return_inverse=True)
        self._values = values
        self.answers = int(self._answer.max()) + 1
        self._counts = np.bincount(self._answer, minlength=self.answers)
        self._sums = np.bincount(self._answer, weights=values, minlength=self.answers)
        self._order: NDArray[np.intp] | None = None

    def mean(self, draws: Draws) -> NDArray[np.float64]:
        """Mean over the tokens of the answers drawn: [..., A] -> [...]."""
        total: NDArray[np.float64] = self._sums[draws].sum(-1) / self._counts[draws].sum(-1)
        return total

    def quantile(self, draws: Draws, q: float) -> NDArray[np.float64]:
        """The smallest value that at least a part `q` of the drawn tokens do not exceed."""
        if self._order is None:
            self._order = np.argsort(self._values, kind="stable")
        rows = draws.reshape(-1, draws.shape[-1])
        slots = rows + self.answers * np.arange(len(rows))[:, None]
        drawn = np.bincount(slots.ravel(), minlength=self.answers * len(rows))
        weights = drawn.reshape(*draws.shape[:-1], self.answers)
        running = np.cumsum(weights[..., self._answer[self._order]], axis=-1)
        # ceil: the rank of the quantile among the tokens drawn, from 1.
        rank = np.maximum(1, np.ceil(q * running[..., -1:] - 1e-9))
        place = (running < rank).sum(-1)
        found: NDArray[np.float64] = self._values[self._order[place]]
        return found

    @property
    def width(self) -> int:
        """Elements that one draw of a quantile needs."""
        return max(self.answers, len(self._values))


def bootstrap(
    answers: int,
    statistic: Callable[[Draws], NDArray[np.float64]],
    *,
    seed: int,
    width: int | None = None,
    resamples: int = RESAMPLES,
) -> Interval:
    """`statistic` of all answers, with its 95 % percentile interval over resampled answers.

    `statistic` maps draws [..., A] to [...]; a ratio or a difference of two artefacts is one
    statistic, so both see the same draws. The same seed gives the same interval. `width`:
    elements that one draw needs, which bounds the memory (32 MiB and a few copies).
    """
    everyone = np.arange(answers)
    value = float(statistic(everyone))
    if answers < 2:
        return Interval(value, None, None)
    batch = max(1, min(resamples, _BATCH_ELEMENTS // max(answers, width or answers)))
    result = stats.bootstrap(
        (everyone,),
        lambda draws, axis: statistic(np.moveaxis(draws, axis, -1)),
        n_resamples=resamples,
        batch=batch,
        vectorized=True,
        axis=-1,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Interval(value, float(low), float(high))
