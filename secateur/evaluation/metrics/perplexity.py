"""Perplexity of the original's own answers: exp of the mean negative log-probability."""

from __future__ import annotations

import numpy as np

from secateur.evaluation.metrics.base import FunctionOfMeans, Metric, TokenArray

ARRAYS = (
    TokenArray("log_prob", np.float32, lambda tokens: tokens.artefact_actual),
    TokenArray("log_prob_original", np.float32, lambda tokens: tokens.original_actual),
)

METRICS = (
    Metric(
        name="perplexity",
        title="perplexity",
        unit="per token",
        better="lower",
        help="perplexity of the answers to the artefact",
        statistic=FunctionOfMeans(("log_prob",), lambda mean: np.exp(-mean)),
        in_table=True,
    ),
    Metric(
        name="perplexity_original",
        title="original's perplexity",
        unit="per token",
        better=None,
        help="perplexity of the answers to the original",
        statistic=FunctionOfMeans(("log_prob_original",), lambda mean: np.exp(-mean)),
        in_table=True,
    ),
    Metric(
        name="perplexity_ratio",
        title="perplexity ratio",
        unit="times the original",
        better="lower",
        help="perplexity to the artefact, divided by that to the original",
        statistic=FunctionOfMeans(
            ("log_prob", "log_prob_original"), lambda own, original: np.exp(original - own)
        ),
        in_summary=True,
    ),
)
