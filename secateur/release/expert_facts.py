"""What became of every expert: kept or dropped, its score, and what it worked on.

From the plan, and the statistics that an output keeps. Shapes: L layers, C categories, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secateur.errors import PlanError
from secateur.planning.document import Plan
from secateur.pruning.criteria.aggregations import POOLED
from secateur.pruning.criteria.base import Criterion, Settings
from secateur.pruning.criteria.registry import CRITERIA
from secateur.statistics.file import load_sums
from secateur.statistics.statistics import Statistics


@dataclass(frozen=True)
class Scores:
    """What the experts were chosen by: `values` float64 [L, E], higher is kept."""

    criterion: str
    unit: str
    values: NDArray[np.float64] = field(repr=False)


@dataclass(frozen=True)
class Load:
    """Tokens that every expert worked on in calibration: `counts` int64 [L, C, E], of `tokens`
    {category: tokens}, each of which goes to `top_k` experts of a layer."""

    counts: NDArray[np.int64] = field(repr=False)
    tokens: dict[str, int]
    top_k: int

    @property
    def relative(self) -> NDArray[np.float64]:
        """float64 [L, E]: the load of an expert, 1 where all experts of the layer have as much."""
        total = self.counts.sum(1)
        return np.asarray(total / np.maximum(total.mean(-1, keepdims=True), 1))

    def dropped_share(self, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
        """float64 [L, C]: the share of a category's load that went to experts not in `kept`."""
        gone = np.where(kept[:, None, :], 0, self.counts).sum(-1)
        return np.asarray(gone / np.maximum(self.counts.sum(-1), 1))


@dataclass(frozen=True)
class ExpertFacts:
    """All routed experts of a model: `kept` bool [L, E]. No scores where a person named the
    experts, nothing of statistics where the output keeps none."""

    layers: tuple[int, ...]
    kept: NDArray[np.bool_] = field(repr=False)
    scores: Scores | None = None
    load: Load | None = None


def expert_facts(plan: Plan, statistics: Path) -> ExpertFacts:
    """What a plan, and the statistics of its output where there are any, say of the experts.

    Raises StatisticsError when the file is damaged.
    """
    layers = tuple(sorted(plan.keep))
    kept = np.zeros((len(layers), int(plan.model["experts"])), bool)
    for row, layer in enumerate(layers):
        kept[row, list(plan.keep[layer])] = True
    if not statistics.is_file():
        return ExpertFacts(layers, kept)
    criterion = CRITERIA.get(str(plan.selection.get("criterion")))
    found = load_sums(statistics, ("tokens", *(criterion.sums if criterion else ())))
    if found.layers != layers:
        return ExpertFacts(layers, kept)
    return ExpertFacts(layers, kept, _scores(plan, criterion, found), _load(found))


def _scores(plan: Plan, criterion: Criterion | None, statistics: Statistics) -> Scores | None:
    if criterion is None or not all(statistics.has(name) for name in criterion.sums):
        return None
    settings = Settings(
        plan.selection.get("routing_weight", "true"),
        plan.selection.get("aggregation", POOLED),
        plan.selection.get("protect_per_sample", Settings().protect_per_sample),
        plan.selection.get("random_seed", 0),
    )
    try:
        values = [criterion.score(statistics, layer, settings) for layer in statistics.layers]
    except PlanError:  # of fewer experts than it protects
        return None
    return Scores(criterion.name, criterion.unit, np.array(values))


def _load(statistics: Statistics) -> Load:
    counts = np.array([statistics.count(layer) for layer in statistics.layers])
    return Load(counts, dict(statistics.tokens), statistics.top_k)
