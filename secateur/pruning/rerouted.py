"""Our own criterion, read off the statistics: experts removed together, tokens rerouted.

calibration.reroute solves, for every count, which experts to keep so that the MoE branch's
output changes least when the tokens of the others fall to their next-best experts. Because the
removed experts are judged together, the sets for two counts need not be nested; the scores are
the greedy order and serve where a selection is constrained.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateur.errors import PlanError
from secateur.statistics.statistics import Statistics

NAME = "rerouted"

_OBJECTIVES = {"pooled": "pooled", "worst-category": "worst"}


def keep(
    statistics: Statistics, count: int, aggregation: str = "pooled"
) -> dict[int, tuple[int, ...]]:
    """{MoE layer: the `count` experts that stay, ascending}."""
    objective = _objective(statistics, aggregation)
    return {
        layer: tuple(
            int(e)
            for e in np.flatnonzero(statistics.arrays[_name(layer, objective, "keep")][count])
        )
        for layer in statistics.layers
    }


def scores(statistics: Statistics, aggregation: str = "pooled") -> dict[int, NDArray[np.float64]]:
    """{MoE layer: float64 [E]}: the order of removal; higher stays longer."""
    objective = _objective(statistics, aggregation)
    return {
        layer: np.asarray(statistics.arrays[_name(layer, objective, "scores")], np.float64)
        for layer in statistics.layers
    }


def _name(layer: int, objective: str, what: str) -> str:
    return f"layer.{layer}.rerouted.{objective}.{what}"


def _objective(statistics: Statistics, aggregation: str) -> str:
    objective = _OBJECTIVES.get(aggregation)
    if objective is None:
        raise PlanError(
            f"the criterion {NAME!r} knows the aggregations {', '.join(_OBJECTIVES)}, "
            f"not {aggregation!r}"
        )
    if _name(statistics.layers[0], objective, "keep") not in statistics.arrays:
        raise PlanError(
            f"these statistics hold no solution for the criterion {NAME!r}: merged statistics and "
            "those made with --no-reroute have none; calibrate in one pass, or name another "
            "criterion with --criterion"
        )
    return objective
