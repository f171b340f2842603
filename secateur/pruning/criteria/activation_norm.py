"""Norms of an expert's outputs: sums and means of |f|, g |f| and |f|^2, and the largest element.

`ean_sum`, `ean_mean` and `weighted_ean_sum` (expert activation norm) are those of the REAP
reference; `msan` is that of arXiv 2606.15716; `max_activation` takes the largest absolute element
of any output, where the reference takes the largest signed one.
"""

from __future__ import annotations

from secateur.pruning.criteria.base import Formula, per_token

EAN_SUM = Formula(
    "ean_sum", "sum of output norms", ("norm",), lambda sums, _: sums["norm"], unit="summed norm"
)
EAN_MEAN = Formula(
    "ean_mean",
    "mean of output norms",
    ("norm", "tokens"),
    lambda sums, _: per_token(sums["norm"], sums["tokens"]),
    unit="norm per token",
)
WEIGHTED_EAN_SUM = Formula(
    "weighted_ean_sum",
    "sum of routing weight times output norm",
    ("gate_norm",),
    lambda sums, _: sums["gate_norm"],
    unit="summed weighted norm",
)
MSAN = Formula(
    "msan",
    "mean of squared output norms (MSAN)",
    ("squared_norm", "tokens"),
    lambda sums, _: per_token(sums["squared_norm"], sums["tokens"]),
    unit="squared norm per token",
)
MAX_ACTIVATION = Formula(
    "max_activation",
    "largest absolute element of any output",
    ("largest",),
    lambda sums, _: sums["largest"],
    unit="absolute value",
)
