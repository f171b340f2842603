"""From tokens to the numbers of a report: per domain and pooled, with interval and samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from secateur.errors import InputError
from secateur.evaluation.intervals import (
    CONFIDENCE,
    Clusters,
    Interval,
    bootstrap,
    interval_of_share,
)
from secateur.evaluation.measurement import POOLED, Measurement
from secateur.evaluation.metrics.base import Metric
from secateur.evaluation.metrics.registry import all_metrics
from secateur.evaluation.metrics.router import AGREEMENT, BY_LAYER
from secateur.evaluation.scores import Scores
from secateur.evaluation.tokens.answers import AnswerSet, Kind, domains_of

SEED = 0

ROUTER_KIND = "router"
"""What these measurements are of: the experts chosen in each layer."""


class TokenGroup(NamedTuple):
    """The scored tokens of one domain (or all) of one kind of answers: their numbers among all."""

    kind: Kind
    domain: str
    tokens: NDArray[np.intp]
    answer: NDArray[np.intp]
    """The answer that each belongs to."""

    def collect(self, scores: Scores, names: Sequence[str]) -> dict[str, Clusters]:
        """The named arrays of these tokens, ready to be resampled."""
        return {
            name: Clusters(scores.arrays[name][self.tokens].astype(np.float64), self.answer)
            for name in names
        }

    def measurement(self, name: str, unit: str, interval: Interval, answers: int) -> Measurement:
        """A number of this group."""
        return Measurement(
            name=name,
            value=interval.value,
            unit=unit,
            n={self.kind: answers, "tokens": len(self.tokens)},
            low=interval.low,
            high=interval.high,
            confidence=None if interval.low is None else CONFIDENCE,
            domain=self.domain,
            kind=self.kind,
        )


def summarise(
    scores: Scores,
    answers: AnswerSet,
    *,
    metrics: Sequence[Metric] | None = None,
    seed: int = SEED,
) -> tuple[Measurement, ...]:
    """All numbers of an artefact, pooled first, then by domain; answers before documents.

    `metrics`: by default all. Intervals are 95 % bootstrap intervals over answers, of shares where
    all answers are alike Wilson's (`intervals.interval_of_share`); there is none
    for fewer than `intervals.FEWEST_ANSWERS`, nor where the statistic has none. Raises InputError
    when the scores are of other answers.
    """
    check_answers(scores, answers)
    found: list[Measurement] = []
    for group in token_groups(answers):
        for metric in all_metrics() if metrics is None else metrics:
            if is_measured(metric, scores) and metric.statistic.is_defined(len(group.tokens)):
                found.append(_measure(metric, group, scores, seed))
    return tuple(found)


def summarise_layers(
    scores: Scores, answers: AnswerSet, *, seed: int = SEED
) -> tuple[Measurement, ...]:
    """Router agreement in every layer, over all answers of the kind that counts; none where the
    routing is not known. The domain is the layer, as in "layer 3"."""
    check_answers(scores, answers)
    if BY_LAYER not in scores.arrays:
        return ()
    group = next(token_groups(answers))
    table = scores.arrays[BY_LAYER][group.tokens].astype(np.float64)
    found = []
    for place, layer in enumerate(scores.provenance["layers"]):
        values = Clusters(table[:, place], group.answer)
        interval = interval_of_share(
            bootstrap(values.answers, values.mean, seed=seed, width=values.width), values.answers
        )
        entry = group.measurement(AGREEMENT.name, AGREEMENT.unit, interval, values.answers)
        found.append(replace(entry, domain=f"layer {layer}", kind=ROUTER_KIND))
    return tuple(found)


def is_measured(metric: Metric, scores: Scores) -> bool:
    """Whether the scores hold what a metric needs: not where the routing is not known."""
    return set(metric.statistic.needs) <= scores.arrays.keys()


def token_groups(answers: AnswerSet) -> Iterator[TokenGroup]:
    """All groups: pooled first, then by domain, for each kind there is."""
    for kind in get_args(Kind):
        domains = domains_of(answers.answers, kind)
        for domain in [POOLED, *domains] if domains else []:
            chosen = [
                entry.kind == kind and domain in (POOLED, entry.domain) for entry in answers.answers
            ]
            tokens = np.flatnonzero(np.array(chosen)[answers.answer_of_token])
            yield TokenGroup(kind, domain, tokens, answers.answer_of_token[tokens])


def check_answers(scores: Scores, answers: AnswerSet) -> None:
    """Raise InputError unless the scores are of these answers."""
    if scores.answers_sha256 != answers.sha256:
        raise InputError(
            f"the scores of {scores.provenance['artefact']} are of answers "
            f"{scores.answers_sha256[:12]}, but these are {answers.sha256[:12]}: "
            "score the artefact on these answers"
        )


def width_of(arrays: Mapping[str, Clusters]) -> int:
    """Elements that one draw of a statistic of these arrays needs."""
    return max(clusters.width for clusters in arrays.values())


def _measure(metric: Metric, group: TokenGroup, scores: Scores, seed: int) -> Measurement:
    arrays = group.collect(scores, metric.statistic.needs)
    answers = next(iter(arrays.values())).answers
    statistic = partial(metric.statistic.evaluate, arrays)
    if metric.statistic.has_interval:
        interval = bootstrap(answers, statistic, seed=seed, width=width_of(arrays))
        if metric.is_share:
            interval = interval_of_share(interval, answers)
    else:
        interval = Interval(float(statistic(np.arange(answers))), None, None)
    return group.measurement(metric.name, metric.unit, interval, answers)
