"""The numbers of an artefact in the engine that will run it, beside ours of the same weights."""

from __future__ import annotations

from dataclasses import replace

from secateur.evaluation.metrics.base import Metric
from secateur.evaluation.metrics.registry import metric_named

KIND = "engine"
"""What these measurements are of: the same tokens, run by llama.cpp or mlx-lm."""

DIFFERENCE = "kl_mean_difference"
"""Mean KL from the original in the engine, minus that of our decoded weights; paired."""


def _between(name: str, title: str, about: str) -> Metric:
    """A metric of the engine against our decoded weights, instead of the original."""
    return replace(metric_named(name), name=f"engine_{name}", title=title, help=about)


ENGINE_METRICS = (
    replace(
        metric_named("kl_mean"),
        name=DIFFERENCE,
        title="minus ours",
        better=None,
        help="mean KL from the original in the engine, minus that of our decoded weights",
    ),
    _between("kl_mean", "KL between", "mean KL divergence of the engine from our decoded weights"),
    _between(
        "top1_agreement",
        "top-1 agreement",
        "part of the tokens that are most probable to the engine and to our decoded weights",
    ),
    _between(
        "router_agreement",
        "same experts",
        "part of the experts that our decoded weights choose that the engine chooses, too",
    ),
)
"""The numbers that only an engine has."""

ENGINE_COLUMNS = (replace(metric_named("kl_mean"), title="mean KL in the engine"), *ENGINE_METRICS)
"""What is shown of an engine; all metrics against the original are kept beside it, under their own
names."""
