"""Criteria: what an expert is worth, from the sums of a calibration run.

A criterion is a pure function from one layer's sums to one score per expert; the higher, the
more it should stay. Sums are pooled over categories before scoring, or scored per category and
then combined (`AGGREGATIONS`). Shapes: C categories, E experts, S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from secateur.errors import PlanError
from secateur.statistics.statistics import Statistics

Scores = NDArray[np.float64]
Gate = Literal["true", "reference"]


@dataclass(frozen=True)
class LayerSums:
    """One layer's sums over some categories. All [E], but `sample_norms` [S, E].

    `gate` sums the coefficient that multiplies the expert's output (or the reference's softmax
    gate), `norm` the output's L2 norm before it, `largest` is a maximum, not a sum.
    """

    layer: int
    tokens: NDArray[np.int64]
    gate: Scores
    norm: Scores
    gate_norm: Scores
    squared_norm: Scores
    largest: Scores
    sample_norms: Scores


@dataclass(frozen=True)
class Settings:
    """What a criterion may be told: the gate, the experts protected per sample, a seed."""

    gate: Gate = "true"
    protect: int = 16
    seed: int = 0


Criterion = Callable[[LayerSums, Settings], Scores]


def _mean(total: Scores, tokens: NDArray[np.int64]) -> Scores:
    """Per token; 0 for an expert that saw none."""
    return np.asarray(np.divide(total, tokens, out=np.zeros_like(total), where=tokens > 0))


def reap(sums: LayerSums, _: Settings) -> Scores:
    """Mean over an expert's tokens of gate times output norm (REAP, arXiv 2510.13999, eq. 9)."""
    return _mean(sums.gate_norm, sums.tokens)


def frequency(sums: LayerSums, _: Settings) -> Scores:
    """Number of tokens sent to the expert."""
    return sums.tokens.astype(np.float64)


def ean_sum(sums: LayerSums, _: Settings) -> Scores:
    """Sum of output norms: expert activation norm (EAN; REAP reference `ean_sum`)."""
    return sums.norm


def ean_mean(sums: LayerSums, _: Settings) -> Scores:
    """Mean output norm over the expert's tokens (REAP reference `ean_mean`)."""
    return _mean(sums.norm, sums.tokens)


def weighted_ean_sum(sums: LayerSums, _: Settings) -> Scores:
    """Sum of gate times output norm (REAP reference `weighted_ean_sum`)."""
    return sums.gate_norm


def weighted_frequency(sums: LayerSums, _: Settings) -> Scores:
    """Sum of gates (REAP reference `weighted_expert_frequency_sum`)."""
    return sums.gate


def max_activation(sums: LayerSums, _: Settings) -> Scores:
    """Largest absolute element of any output (the reference takes the signed maximum)."""
    return sums.largest


def msan(sums: LayerSums, _: Settings) -> Scores:
    """Mean squared output norm, no gate (MSAN, arXiv 2606.15716)."""
    return _mean(sums.squared_norm, sums.tokens)


def contribution(sums: LayerSums, settings: Settings) -> Scores:
    """Coverage over samples of per-sample protection (card 001, ManniX-ITA 109e v3).

    In each sample the experts are ranked by their summed |gate * output|, and the first
    `protect` of those that did anything are protected. The score is the number of samples that
    protect the expert; ties go to the larger total, which adds less than one.
    """
    if settings.gate != "true":
        raise PlanError(
            "the criterion 'contribution' is defined on the true gate only: leave out "
            "--gate reference"
        )
    norms = sums.sample_norms
    protect = min(settings.protect, norms.shape[1])
    order = np.argsort(-norms, axis=1, kind="stable")[:, :protect]
    protected = np.zeros(norms.shape, np.bool_)
    np.put_along_axis(protected, order, values=True, axis=1)
    total = norms.sum(0)
    return np.asarray((protected & (norms > 0)).sum(0) + total / (1.0 + total.max(initial=0.0)))


def random(sums: LayerSums, settings: Settings) -> Scores:
    """A seeded permutation, as a control."""
    generator = np.random.Generator(np.random.PCG64([settings.seed, sums.layer]))
    return generator.permutation(sums.tokens.size).astype(np.float64)


CRITERIA: Mapping[str, Criterion] = {
    "reap": reap,
    "frequency": frequency,
    "ean_sum": ean_sum,
    "ean_mean": ean_mean,
    "weighted_ean_sum": weighted_ean_sum,
    "weighted_frequency": weighted_frequency,
    "max_activation": max_activation,
    "msan": msan,
    "contribution": contribution,
    "random": random,
}
"""Criteria that score experts one by one; `rerouted` (planning.rerouted) removes them together."""


def _pooled(scores: Callable[[list[int]], Scores], categories: int) -> Scores:
    return scores(list(range(categories)))


def _ranks(scores: Callable[[list[int]], Scores], categories: int) -> Scores:
    """float64 [C, E]: per category, the rank of each expert from 1; equals share their mean."""
    from scipy.stats import rankdata  # takes a second to import, and few runs need it

    return np.array([rankdata(scores([category])) for category in range(categories)])


def _mean_rank(scores: Callable[[list[int]], Scores], categories: int) -> Scores:
    """Mean over categories of the expert's rank: every category has one vote."""
    return np.asarray(_ranks(scores, categories).mean(0))


def _worst_category(scores: Callable[[list[int]], Scores], categories: int) -> Scores:
    """Best rank over categories: an expert that any category needs stays.

    Ties (each category has an expert of every rank) go to the higher mean rank.
    """
    ranks = _ranks(scores, categories)
    return np.asarray(ranks.max(0) + ranks.mean(0) / (1.0 + ranks.shape[1]))


AGGREGATIONS: Mapping[str, Callable[[Callable[[list[int]], Scores], int], Scores]] = {
    "pooled": _pooled,
    "mean-rank": _mean_rank,
    "worst-category": _worst_category,
}


def score(
    statistics: Statistics,
    criterion: str,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    aggregation: str = "pooled",
) -> dict[int, Scores]:
    """{MoE layer: float64 [E]}: what each expert is worth; higher stays.

    Raises PlanError for an unknown criterion or aggregation.
    """
    if criterion not in CRITERIA:
        raise PlanError(f"unknown criterion {criterion!r}: choose one of {', '.join(CRITERIA)}")
    if aggregation not in AGGREGATIONS:
        raise PlanError(
            f"unknown aggregation {aggregation!r}: choose one of {', '.join(AGGREGATIONS)}"
        )
    judge, combine = CRITERIA[criterion], AGGREGATIONS[aggregation]
    scored = {}
    for layer in statistics.layers:

        def of(chosen: list[int], layer: int = layer) -> Scores:
            return judge(layer_sums(statistics, layer, chosen, settings.gate), settings)

        scored[layer] = combine(of, len(statistics.categories))
    return scored


def layer_sums(
    statistics: Statistics, layer: int, categories: list[int], gate: Gate = "true"
) -> LayerSums:
    """One layer's sums over the categories given by number."""
    prefix = "reference_" if gate == "reference" else ""

    def total(what: str) -> Scores:
        return np.asarray(statistics.sum(layer, what)[categories].sum(0))

    names = {statistics.categories[number] for number in categories}
    rows = [row for row, s in enumerate(statistics.samples) if s["category"] in names]
    return LayerSums(
        layer=layer,
        tokens=np.asarray(statistics.count(layer)[categories].sum(0)),
        gate=total(f"{prefix}gate"),
        norm=total("norm"),
        gate_norm=total(f"{prefix}gate_norm"),
        squared_norm=total("squared_norm"),
        largest=statistics.largest(layer)[categories].max(0).astype(np.float64),
        sample_norms=statistics.sample_norms(layer)[rows],
    )
