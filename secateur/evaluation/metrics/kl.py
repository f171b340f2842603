"""Divergence: how far the artefact's probabilities are from the original's, token by token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateur.evaluation.metrics.base import Maximum, Metric, Quantile, TokenArray, mean

NATS = "nats per token"


def kl_of_bins(original: NDArray[np.float32], artefact: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(original || artefact) in nats from log-probabilities over bins: [n, B], [n, B] -> [n].

    Sum of p (log p - log q) - p + q. As both sum to 1 that is the KL divergence, but every term
    is non-negative and 0 only where p = q, so that rounding can neither make it negative nor
    drown a small one. With d = log p - log q a term is p (d + expm1(-d)).
    """
    log_p, log_q = original.astype(np.float64), artefact.astype(np.float64)
    p, q = np.exp(log_p), np.exp(log_q)
    # A bin without mass on the original's side (-inf) costs q; one without any costs nothing.
    d = np.subtract(log_p, log_q, out=np.zeros_like(p), where=p > 0)
    near = np.abs(d) < 1
    terms = np.where(near, p * (d + np.expm1(-np.where(near, d, 0))), p * d - p + q)
    total: NDArray[np.float64] = np.where(p > 0, terms, q).sum(-1)
    return total


ARRAYS = (
    TokenArray("kl", np.float64, lambda tokens: kl_of_bins(tokens.original, tokens.artefact)),
)

METRICS = (
    Metric(
        name="kl_mean",
        title="mean KL",
        unit=NATS,
        better="lower",
        help="mean KL divergence from the original",
        statistic=mean("kl"),
        in_summary=True,
        in_table=True,
    ),
    Metric(
        name="kl_median",
        title="median KL",
        unit=NATS,
        better="lower",
        help="KL divergence that half of the tokens do not exceed",
        statistic=Quantile("kl", 0.5),
        in_table=True,
    ),
    Metric(
        name="kl_p90",
        title="p90 KL",
        unit=NATS,
        better="lower",
        help="KL divergence that 90 % of the tokens do not exceed",
        statistic=Quantile("kl", 0.9),
    ),
    Metric(
        name="kl_p99",
        title="p99 KL",
        unit=NATS,
        better="lower",
        help="KL divergence that 99 % of the tokens do not exceed",
        statistic=Quantile("kl", 0.99),
        in_table=True,
    ),
    Metric(
        name="kl_p99.9",
        title="p99.9 KL",
        unit=NATS,
        better="lower",
        help="KL divergence that 99.9 % of the tokens do not exceed",
        statistic=Quantile("kl", 0.999),
    ),
    Metric(
        name="kl_max",
        title="largest KL",
        unit=NATS,
        better="lower",
        help="largest KL divergence of a token",
        statistic=Maximum("kl"),
    ),
)
