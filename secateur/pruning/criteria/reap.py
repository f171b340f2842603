"""REAP: the mean of routing weight times output norm (arXiv 2510.13999, equation 9)."""

from __future__ import annotations

from secateur.pruning.criteria.aggregations import Scores
from secateur.pruning.criteria.base import Formula, LayerSums, Settings, per_token


def _reap(sums: LayerSums, _: Settings) -> Scores:
    """S_j = (1 / n_j) sum over the expert's tokens of g |f|."""
    return per_token(sums["gate_norm"], sums["tokens"])


REAP = Formula(
    "reap",
    "mean of routing weight times output norm (REAP)",
    ("gate_norm", "tokens"),
    _reap,
    unit="weighted norm per token",
)
