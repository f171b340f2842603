"""The right token's probability: how it changes, as llama-perplexity's change of p does.

The right token is the one that is there, so in the original's own answers the one that it chose.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateur.evaluation.metrics.base import (
    FunctionOfMeans,
    Metric,
    Quantile,
    ScoredTokens,
    TokenArray,
    mean,
)

UNIT = "of probability"


def _change(tokens: ScoredTokens) -> NDArray[np.float64]:
    """The artefact's probability of the right token minus the original's, [n]."""
    return np.exp(tokens.artefact_actual.astype(np.float64)) - np.exp(
        tokens.original_actual.astype(np.float64)
    )


ARRAYS = (
    TokenArray("probability_change", np.float32, _change),
    TokenArray("squared_probability_change", np.float32, lambda tokens: _change(tokens) ** 2),
)

METRICS = (
    Metric(
        name="probability_change_mean",
        title="mean change of p",
        unit=UNIT,
        better=None,
        help="mean change of the right token's probability",
        statistic=mean("probability_change"),
    ),
    Metric(
        name="probability_change_rms",
        title="RMS change of p",
        unit=UNIT,
        better="lower",
        help="root of the mean square of the change of the right token's probability",
        statistic=FunctionOfMeans(("squared_probability_change",), np.sqrt),
    ),
    Metric(
        name="probability_change_p1",
        title="p1 change of p",
        unit=UNIT,
        better="higher",
        help="change of the right token's probability that 1 % of the tokens do not exceed",
        statistic=Quantile("probability_change", 0.01),
    ),
)
