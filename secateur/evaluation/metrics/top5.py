"""Agreement on the five most probable tokens: how many of the original's are the artefact's too."""

from __future__ import annotations

import numpy as np

from secateur.evaluation.metrics.base import Metric, TokenArray, mean

ARRAYS = (TokenArray("top5_kept", np.float32, lambda tokens: tokens.top_kept.mean(-1)),)

METRICS = (
    Metric(
        name="top5_agreement",
        title="top-5 agreement",
        unit="fraction of the original's five",
        better="higher",
        help="part of the original's five most probable tokens that are among the artefact's five",
        statistic=mean("top5_kept"),
        is_share=True,
    ),
)
