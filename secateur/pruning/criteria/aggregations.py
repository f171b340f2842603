"""How scores per category become one: pooled, by mean rank, or by the best rank.

Shapes: C categories, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]

ScoreCategories = Callable[[list[int]], Scores]
"""Scores [E] from the sums over some categories, given by number."""

POOLED = "pooled"
WORST_CATEGORY = "worst-category"


@dataclass(frozen=True)
class Aggregation:
    """A way to combine categories; `help` is one line for `--help`."""

    name: str
    help: str
    combine: Callable[[ScoreCategories, int], Scores]


def _pool(scores: ScoreCategories, categories: int) -> Scores:
    return scores(list(range(categories)))


def _rank(scores: ScoreCategories, categories: int) -> Scores:
    """float64 [C, E]: per category, the rank of each expert from 1; equals share their mean."""
    from scipy.stats import rankdata  # takes a second to import, and few runs need it

    return np.array([rankdata(scores([category])) for category in range(categories)])


def _mean_rank(scores: ScoreCategories, categories: int) -> Scores:
    return np.asarray(_rank(scores, categories).mean(0))


def _best_rank(scores: ScoreCategories, categories: int) -> Scores:
    """Ties (each category has an expert of every rank) go to the higher mean rank.

    Ranks are multiples of 1/2, since equals share their mean; the mean rank adds less than that.
    """
    ranks = _rank(scores, categories)
    return np.asarray(ranks.max(0) + ranks.mean(0) / (2.0 + 2.0 * ranks.shape[1]))


AGGREGATIONS: Mapping[str, Aggregation] = {
    one.name: one
    for one in (
        Aggregation(POOLED, "sums over all categories", _pool),
        Aggregation("mean-rank", "mean of the ranks per category: each has one vote", _mean_rank),
        Aggregation(
            WORST_CATEGORY, "best rank over the categories: keep what any one needs", _best_rank
        ),
    )
}
