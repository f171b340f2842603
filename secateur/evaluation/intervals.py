"""Bootstrap intervals that resample answers, not tokens; and Wilson's, of a rate.

The tokens of one answer depend on each other: an interval over tokens as if they were drawn
one by one is several times too narrow. So whole answers are drawn with replacement (the
cluster bootstrap: Davison & Hinkley 1997, section 3.8) and a statistic is computed over all
tokens of the answers drawn; the interval is the percentile one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95
FEWEST_ANSWERS = 5
"""With fewer answers there is no interval: two answers can be drawn in three ways only, and an
interval over these looks like knowledge that is not there."""

_ALIKE = 1e-12
"""An interval of less width is of answers that are all alike, but for rounding."""
_BATCH_ELEMENTS = 1 << 22
"""Elements of a resampled table held at once (32 MiB of float64)."""

Draws = NDArray[np.intp]
"""Indices of the answers drawn: [..., A]."""


class Interval(NamedTuple):
    """A statistic of all answers, and its bounds (None with fewer than `FEWEST_ANSWERS`)."""

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

    def mean(self, draws: Draws) -> NDArray[np.float64]:
        """Mean over the tokens of the answers drawn: [..., A] -> [...]."""
        total: NDArray[np.float64] = self._sums[draws].sum(-1) / self._counts[draws].sum(-1)
        return total

    def quantile(self, draws: Draws, q: float) -> NDArray[np.float64]:
        """The smallest value that at least a part `q` of the drawn tokens do not exceed.

        [..., A] -> [...]. With N tokens a draw takes O(A sqrt(N)) in one matrix product, where
        going through all its tokens would take O(N): how many drawn tokens lie before each block
        of sqrt(N) sorted ones is looked up first, then only one block is gone through.
        """
        rows = draws.reshape(-1, draws.shape[-1])
        times = _times_drawn(rows, self.answers)  # [R, A]
        blocks = self._sorted
        before = times @ blocks.before  # [R, B + 1]: whole numbers, exact in float64
        # ceil: the rank of the quantile among the tokens drawn, from 1.
        rank = np.maximum(1, np.ceil(q * before[:, -1:] - 1e-9))
        block = (before[:, 1:] < rank).sum(-1)
        inside = np.take_along_axis(times, blocks.answer[block], -1)  # [R, L]
        running = np.cumsum(inside, -1) + np.take_along_axis(before, block[:, None], -1)
        place = (running < rank).sum(-1)
        found: NDArray[np.float64] = blocks.values[block, place]
        return found.reshape(draws.shape[:-1])

    @cached_property
    def _sorted(self) -> _Blocks:
        order = np.argsort(self._values, kind="stable")
        length = max(1, int(np.sqrt(len(order))))
        count = -(-len(order) // length)
        block_of = np.arange(len(order)) // length
        table = np.zeros((self.answers, count + 1))
        np.add.at(table, (self._answer[order], block_of + 1), 1)
        # The last block is filled with its last token: never reached, because the rank is met.
        whole = np.pad(order, (0, count * length - len(order)), mode="edge")
        return _Blocks(
            self._values[whole].reshape(count, length),
            self._answer[whole].reshape(count, length),
            np.cumsum(table, -1),
        )

    @property
    def width(self) -> int:
        """Elements that one draw needs at most."""
        return max(self.answers, 2 * int(np.sqrt(len(self._values))) + 2)


class _Blocks(NamedTuple):
    """Tokens sorted by value, in B blocks of L."""

    values: NDArray[np.float64]
    """[B, L]"""
    answer: NDArray[np.intp]
    """[B, L]: the answer of each."""
    before: NDArray[np.float64]
    """[A, B + 1]: an answer's tokens in the blocks before each, and in all."""


def _times_drawn(rows: Draws, answers: int) -> NDArray[np.float64]:
    """How often each row drew each answer: [R, A] -> [R, answers]."""
    slots = rows + answers * np.arange(len(rows))[:, None]
    drawn = np.bincount(slots.ravel(), minlength=answers * len(rows))
    return drawn.reshape(len(rows), answers).astype(np.float64)


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
    # Half a second and 57 MiB, which nobody wants beside a model that is being run.
    from scipy import stats

    each_once = np.arange(answers)
    value = float(statistic(each_once))
    if answers < FEWEST_ANSWERS:
        return Interval(value, None, None)
    batch = max(1, min(resamples, _BATCH_ELEMENTS // max(answers, width or answers)))
    result = stats.bootstrap(
        (each_once,),
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


def wilson_interval(rate: float, count: float) -> Interval:
    """The 95 % score interval (Wilson 1927) of a rate among `count` samples, whole or not."""
    from scipy import stats

    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    spread = math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    half = z / (1 + z * z / count) * spread
    # At the ends it is exact, but for rounding.
    low, high = 0.0 if rate == 0 else centre - half, 1.0 if rate == 1 else centre + half
    return Interval(rate, low, high)


def interval_of_share(found: Interval, answers: int) -> Interval:
    """The interval of a share of tokens, from the bootstrap's over as many answers.

    Where every answer has the same share (all tokens agree, or none) resampling cannot tell them
    apart, and [1, 1] would be said of five answers as of five thousand. Nothing is then known of
    how the tokens of an answer depend on each other, and it is Wilson's of as many samples as
    there are answers: of 100 that all agree it begins at 0.963, and the rule of three (Hanley &
    Lippman-Hand 1983, one-sided) says 0.97.
    """
    low, high = found.low, found.high
    if low is None or high is None or high - low > _ALIKE:
        return found
    return wilson_interval(found.value, answers)


def interval_from_error(rate: float, error: float, count: int) -> Interval:
    """Wilson's interval of a rate with a known standard error: of as many samples as a simple
    sample with that error would have, and at most `count` (Dean & Pagano 2015, Survey Methodology
    41). The rate with 1.96 errors on each side would leave 0 to 1."""
    rate = min(1.0, max(0.0, rate))
    spread = rate * (1 - rate)
    worth = min(count, spread / error**2) if spread and error else count
    return wilson_interval(rate, worth)
