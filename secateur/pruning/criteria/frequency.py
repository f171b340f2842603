"""How often an expert is chosen, plainly or weighted by its routing weight.

The REAP reference calls the weighted one `weighted_expert_frequency_sum`.
"""

from __future__ import annotations

from secateur.pruning.criteria.base import Formula

FREQUENCY = Formula(
    "frequency", "number of tokens", ("tokens",), lambda sums, _: sums["tokens"], unit="tokens"
)
WEIGHTED_FREQUENCY = Formula(
    "weighted_frequency",
    "sum of routing weights",
    ("gate",),
    lambda sums, _: sums["gate"],
    unit="summed routing weight",
)
