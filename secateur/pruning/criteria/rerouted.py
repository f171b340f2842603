"""Our own criterion: experts removed one after the other, their tokens rerouted.

calibration.removal_search finds the order in which a layer misses its experts least, judged by
the error of the MoE block's output after the tokens of the removed experts have gone to their
next-best ones. The order is the score: the n experts of highest score are those that the search
kept at n, and a constrained selection goes by it too.
"""

from __future__ import annotations

from dataclasses import dataclass

from secateur.pruning.criteria.aggregations import POOLED, WORST_CATEGORY, Scores
from secateur.pruning.criteria.base import Settings
from secateur.statistics.statistics import Statistics

_SCORES = {POOLED: "rerouted.pooled.scores", WORST_CATEGORY: "rerouted.worst.scores"}


@dataclass(frozen=True)
class Rerouted:
    """A Criterion whose scores were solved while the layer's weights were there."""

    name: str = "rerouted"
    help: str = "least change of the layer's output once tokens are rerouted"
    sums: tuple[str, ...] = tuple(_SCORES.values())
    remedy: str = (
        "statistics made with --reroute-tokens 0, and merged ones, hold it only after "
        "`secateur merge FILES --model MODEL` of files with token samples"
    )
    aggregations: tuple[str, ...] = tuple(_SCORES)
    own_settings: tuple[str, ...] = ()
    unit: str = "place in the order of removal, 0 for what went first"

    def score(self, statistics: Statistics, layer: int, settings: Settings) -> Scores:
        """float64 [E]: place in the order of removal; higher is kept longer."""
        return statistics.array(layer, _SCORES[settings.aggregation])


REROUTED = Rerouted()
