"""The metrics of an artefact in its engine: llama.cpp against our decoded weights."""

from __future__ import annotations

from secateur.evaluation.metrics.base import Metric, mean

KIND = "engine"
"""What these measurements are of: tokens that llama.cpp generated."""

ENGINE_METRICS = (
    Metric(
        name="engine_top1_agreement",
        title="top-1 agreement",
        unit="fraction of tokens",
        better="higher",
        help="part of the tokens that are most probable to llama.cpp and to the decoded weights",
        statistic=mean("agrees"),
    ),
    Metric(
        name="engine_log_prob_difference",
        title="difference of log-probabilities",
        unit="nats",
        better="lower",
        help="mean absolute difference of the log-probabilities of the engine's top tokens",
        statistic=mean("difference"),
    ),
)
