"""Agreement: how often artefact and original find the same token most probable."""

from __future__ import annotations

import numpy as np

from secateur.evaluation.metrics.base import Metric, TokenArray, mean

ARRAYS = (
    TokenArray("agrees", np.bool_, lambda tokens: tokens.original_best == tokens.artefact_best),
)

METRICS = (
    Metric(
        name="top1_agreement",
        title="top-1 agreement",
        unit="fraction of tokens",
        better="higher",
        help="part of the tokens for which both find the same next token most probable",
        statistic=mean("agrees"),
        is_share=True,
        in_summary=True,
        in_table=True,
    ),
)
