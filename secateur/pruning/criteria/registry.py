"""All criteria, by name: help texts, choices, errors, benchmarks and tests are made from this."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.errors import PlanError
from secateur.pruning.criteria.activation_norm import (
    EAN_MEAN,
    EAN_SUM,
    MAX_ACTIVATION,
    MSAN,
    WEIGHTED_EAN_SUM,
)
from secateur.pruning.criteria.aggregations import AGGREGATIONS
from secateur.pruning.criteria.base import Criterion
from secateur.pruning.criteria.contribution import CONTRIBUTION
from secateur.pruning.criteria.frequency import FREQUENCY, WEIGHTED_FREQUENCY
from secateur.pruning.criteria.random_order import RANDOM
from secateur.pruning.criteria.reap import REAP
from secateur.pruning.criteria.rerouted import REROUTED

_ALL: tuple[Criterion, ...] = (
    REROUTED,
    REAP,
    FREQUENCY,
    EAN_SUM,
    EAN_MEAN,
    WEIGHTED_EAN_SUM,
    WEIGHTED_FREQUENCY,
    MAX_ACTIVATION,
    MSAN,
    CONTRIBUTION,
    RANDOM,
)
CRITERIA: Mapping[str, Criterion] = {criterion.name: criterion for criterion in _ALL}

DEFAULT = REROUTED.name
"""What is used when the user names none: on gemmule less is lost than by all others but
`weighted_frequency`, which is not told apart from it (benchmarks/criteria.json)."""


def find_criterion(criterion: str | Criterion) -> Criterion:
    """A criterion by name, or as it is. Raises PlanError for an unknown name."""
    if not isinstance(criterion, str):
        return criterion
    if criterion not in CRITERIA:
        raise PlanError(f"unknown criterion {criterion!r}: choose one of {', '.join(CRITERIA)}")
    return CRITERIA[criterion]


def check_aggregation(name: str) -> None:
    """Raise PlanError for a name that no criterion knows."""
    if name not in AGGREGATIONS:
        raise PlanError(f"unknown aggregation {name!r}: choose one of {', '.join(AGGREGATIONS)}")
