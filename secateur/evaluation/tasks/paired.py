"""Two models on the same items: is one better, by how much, and could so few items show it?

Each item is compared with itself, so that what makes an item hard for both does not count as
noise. Tests and resampling are scipy's.

    test         one answer an item, right or wrong: McNemar's exact test, a binomial test of the
                 items that flipped (McNemar 1947; Fagerland, Lydersen & Laake 2013, section 2).
                 Otherwise (several answers an item, or scores between 0 and 1) a permutation test
                 that exchanges the two models within an item, which is a cluster of its answers.
    difference   of single answers the score interval and the exact one, whichever reaches farther
                 (`tasks.difference`): it holds 0 exactly where the test's p is above 5 %. Otherwise
                 the percentile bootstrap (`evaluation.intervals`: items are drawn whole), and
                 never less than the score interval of the items.
    effect       Cohen's h, 2 asin sqrt(after) - 2 asin sqrt(before): a difference of rates on a
                 scale where it is equally hard to see anywhere (Cohen 1988, chapter 6).
    needed       items for 80 % power at 5 %, by Connor (1987): see `items_needed`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.errors import RequestError
from secateur.evaluation.intervals import (
    CONFIDENCE,
    Draws,
    Interval,
    bootstrap,
    wilson_interval,
)
from secateur.evaluation.measurement import Measurement
from secateur.evaluation.tasks.difference import difference_interval, score_interval, widened
from secateur.system.sizes import show_count

LEVEL = 0.05
"""A difference stands when its p is at most this."""
POWER = 0.8
"""The chance of seeing a true difference that `items_needed` asks for."""
PERMUTATIONS = 9999
KIND = "tasks"

Scores = Mapping[str, Sequence[float]]
"""Item -> the scores of its answers, each between 0 (wrong) and 1 (right)."""
Values = NDArray[np.float64]


class Flips(NamedTuple):
    """Items by what became of them; an item of several answers is right when most are."""

    kept: int
    """right before and after"""
    lost: int
    """right before, wrong after"""
    gained: int
    """wrong before, right after"""
    missed: int
    """wrong before and after"""

    @property
    def items(self) -> int:
        return sum(self)


@dataclass(frozen=True, slots=True)
class PairedResult:
    """Two models on the same items of one task.

    `before`, `after`: their accuracies (`mean_score`); `difference` is after minus before;
    `p_value` is that of `test`; `effect` is Cohen's h; `needed` is how many items would show a
    difference of this size, None where the two are equal.
    """

    task: str
    flips: Flips
    before: Interval
    after: Interval
    difference: Interval
    test: str
    p_value: float
    effect: float
    needed: int | None

    @property
    def stands(self) -> bool:
        """Whether the test tells the two apart."""
        return self.p_value <= LEVEL

    def describe(self) -> str:
        """One line: flips, difference, test, and what would be needed."""
        low, high = self.difference.low, self.difference.high
        spread = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
        more = (
            ""
            if self.needed is None
            else f"; {show_count(self.needed, 'item')} would show this difference"
        )
        return (
            f"{self.task}: {100 * self.difference.value:+.1f} points{spread}, "
            f"{self.flips.lost} lost, {self.flips.gained} gained of {self.flips.items}, "
            f"p = {self.p_value:.2g} ({self.test}), h = {self.effect:+.2f}{more}"
        )

    def measurements(self) -> tuple[Measurement, ...]:
        """The numbers of a report, of the kind "tasks" and with the task as domain."""
        n = {"items": self.flips.items}

        def number(name: str, value: float, unit: str) -> Measurement:
            return Measurement(name, value, unit, n, domain=self.task, kind=KIND)

        low, high = self.difference.low, self.difference.high
        confidence = None if low is None else CONFIDENCE
        found = [
            Measurement(
                "accuracy_difference", self.difference.value, "share of items", n,
                low, high, confidence, self.task, KIND,
            ),
            number("flips_lost", self.flips.lost, "items"),
            number("flips_gained", self.flips.gained, "items"),
            number("p_value", self.p_value, self.test),
            number("effect_size", self.effect, "Cohen's h"),
        ]  # fmt: skip
        if self.needed is not None:
            found.append(number("items_needed", self.needed, "items"))
        return tuple(found)


def wilson(right: int, items: int) -> Interval:
    """A rate with its 95 % Wilson score interval (Wilson 1927). Raises RequestError for no item."""
    if items < 1:
        raise RequestError("there is no item to take a rate of: ask at least one question")
    return wilson_interval(right / items, items)


def mean_score(
    scores: Values, counts: Values, cluster: NDArray[np.intp], *, seed: int = 0
) -> Interval:
    """The mean of scores between 0 and 1 that count as much as `counts` say, over questions that
    `cluster` numbers: Wilson's interval where each is one answer, right or wrong, and all count the
    same. Otherwise whole questions are drawn (`evaluation.intervals`); of answers right or wrong
    it is never less than Wilson's of as many questions as so many unequal ones are worth (Kish
    1965, section 11.7): where all are right the bootstrap alone would be sure of it."""
    sizes = np.bincount(cluster, weights=counts)
    binary, alike = bool(np.isin(scores, (0.0, 1.0)).all()), bool((sizes == 1).all())
    if binary and alike and len(sizes) == len(scores):
        return wilson(int(scores.sum()), len(scores))
    found = _bootstrap(scores * counts, counts, cluster, seed)
    worth = float(sizes.sum() ** 2 / np.sum(sizes**2))
    least = wilson_interval(found.value, worth)
    assert least.low is not None and least.high is not None
    return widened(found, (least.low, least.high)) if binary else found


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided p of McNemar's exact test; 1 where nothing flipped."""
    from scipy import stats

    flipped = lost + gained
    return float(stats.binomtest(min(lost, gained), flipped, 0.5).pvalue) if flipped else 1.0


def cohens_h(before: float, after: float) -> float:
    """The effect size of a difference of rates (see the module)."""
    return 2 * math.asin(math.sqrt(after)) - 2 * math.asin(math.sqrt(before))


def items_needed(flipped: float, difference: float) -> int | None:
    """Items with which a paired test sees `difference` at 5 %, two-sided, with 80 % power.

    `flipped` is the share of items that flip either way, `difference` the share gained minus the
    share lost. (z_a sqrt(f) + z_b sqrt(f - d^2))^2 / d^2: Connor 1987, Biometrics 43.
    None for no difference.
    """
    from scipy import stats

    if difference == 0:
        return None
    flipped = max(flipped, abs(difference))
    alpha, beta = stats.norm.ppf(1 - LEVEL / 2), stats.norm.ppf(POWER)
    root = alpha * math.sqrt(flipped) + beta * math.sqrt(max(0.0, flipped - difference**2))
    return math.ceil(float((root / difference) ** 2) - 1e-9)


class Pairing(NamedTuple):
    """What is possible when only the sums of two models are known, not their answers."""

    best: Flips
    """as few flips as possible: the smallest p"""
    worst: Flips
    """as many as possible: the largest p"""


def possible_pairings(before: int, after: int, items: int) -> Pairing:
    """The flips nearest to and farthest from a difference, of `before` and `after` right answers
    to the same `items`. Raises RequestError for counts that cannot be.
    """
    if not (0 <= before <= items and 0 <= after <= items and items > 0):
        raise RequestError(f"{before} and {after} right answers of {items} cannot be")

    def flips(both: int) -> Flips:
        return Flips(both, before - both, after - both, items - before - after + both)

    return Pairing(flips(min(before, after)), flips(max(0, before + after - items)))


def same_questions(one: Scores, other: Scores) -> bool:
    """Whether two models were asked the same items, as often each."""
    return {item: len(scores) for item, scores in one.items()} == {
        item: len(scores) for item, scores in other.items()
    }


def compare_paired(
    task: str,
    before: Scores,
    after: Scores,
    *,
    seed: int = 0,
    weights: Mapping[str, float] | None = None,
) -> PairedResult:
    """Compare two models on the items of one task.

    `weights` are what items count, 1 on average (None: each 1). The same input gives the same
    result, in whatever order items come. Raises RequestError when the two did not answer the same
    items, as often each, or when there are none.
    """
    items = _check(task, before, after)
    own = np.arange(len(items))
    first, second = (
        np.array([float(np.mean(scores[item])) for item in items]) for scores in (before, after)
    )
    right = first > 0.5, second > 0.5
    counts = np.array([1.0 if weights is None else weights[item] for item in items])
    rates = [mean_score(side, counts, own, seed=seed) for side in (first, second)]
    first, second = first * counts, second * counts
    flips = Flips(
        int(np.sum(right[0] & right[1])),
        int(np.sum(right[0] & ~right[1])),
        int(np.sum(~right[0] & right[1])),
        int(np.sum(~right[0] & ~right[1])),
    )
    single = bool(np.isin([first, second], (0.0, 1.0)).all()) and all(
        len(before[item]) == 1 for item in items
    )
    if single and weights is None:
        test, p_value = "exact McNemar", mcnemar(flips.lost, flips.gained)
        difference = difference_interval(flips.lost, flips.gained, len(items))
    else:
        test, p_value = "permutation within clusters", _permute(second - first, seed)
        least = _score_interval(second - first, counts)
        difference = widened(_bootstrap(second - first, counts, own, seed), least)
    return PairedResult(
        task,
        flips,
        rates[0],
        rates[1],
        difference,
        test,
        p_value,
        cohens_h(rates[0].value, rates[1].value),
        items_needed((flips.lost + flips.gained) / len(items), difference.value),
    )


def _check(task: str, before: Scores, after: Scores) -> list[str]:
    """The items, sorted."""
    if not before and not after:
        raise RequestError(f"{task}: there is no item to compare; ask at least one question")
    if before.keys() != after.keys():
        one, other = len(before.keys() - after.keys()), len(after.keys() - before.keys())
        raise RequestError(
            f"{task}: items with an answer of the first model only: {one}, of the second only: "
            f"{other}; both have to be asked the same items (same task, seed and number of items)"
        )
    for item in before:
        if len(before[item]) != len(after[item]) or not len(before[item]):
            raise RequestError(
                f"{task}: item {item} has {len(before[item])} answers of the first model and "
                f"{len(after[item])} of the second, expected as many of both, and at least one"
            )
        if not all(0 <= score <= 1 for score in (*before[item], *after[item])):
            raise RequestError(f"{task}: item {item} has a score outside 0 to 1")
    return sorted(before)


def _score_interval(differences: Values, counts: Values) -> tuple[float, float]:
    """The score interval where every item flips by its mean difference, and all are worth as many
    items as those that count the same would be. `differences` are of items times what they
    count."""
    worth = counts.sum() / np.sum(counts**2)
    lost, gained = (
        np.abs(differences[side]).sum() * worth for side in (differences < 0, differences > 0)
    )
    return score_interval(float(lost), float(gained), float(counts.sum() * worth))


def _bootstrap(values: Values, counts: Values, cluster: NDArray[np.intp], seed: int) -> Interval:
    """The sum of values over that of counts, with the interval from drawing whole clusters."""
    sums, sizes = np.bincount(cluster, weights=values), np.bincount(cluster, weights=counts)

    def mean(draws: Draws) -> Values:
        drawn: Values = sums[draws].sum(-1) / sizes[draws].sum(-1)
        return drawn

    return bootstrap(len(sums), mean, seed=seed)


def _permute(differences: Values, seed: int) -> float:
    """Two-sided p of the summed differences when the models are exchanged within items."""
    from scipy import stats

    moved = differences[differences != 0]
    if len(moved) < 2:
        return 1.0  # one item is as far to one side as to the other
    found = stats.permutation_test(
        (moved,),
        np.sum,
        permutation_type="samples",
        n_resamples=PERMUTATIONS,
        vectorized=True,
        axis=-1,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
