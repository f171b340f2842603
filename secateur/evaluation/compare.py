"""Which of several artefacts is nearer to the original: paired differences, with intervals.

Two are resampled by the same answers, so that what is hard for both does not count: the
difference is known far better than either number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from secateur.errors import InputError
from secateur.evaluation.floor import Floor
from secateur.evaluation.intervals import Draws, bootstrap
from secateur.evaluation.measurement import POOLED, Measurement
from secateur.evaluation.metrics.base import Metric
from secateur.evaluation.metrics.registry import all_metrics
from secateur.evaluation.scores import Scores
from secateur.evaluation.seen_text import SeenText
from secateur.evaluation.summary import (
    SEED,
    TokenGroup,
    check_answers,
    is_measured,
    summarise,
    token_groups,
    width_of,
)
from secateur.evaluation.tasks.difference import score_interval, widened
from secateur.evaluation.tokens.answers import AnswerSet

Verdict = Literal["better", "worse", "not distinguishable", "below the floor"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of a metric between two artefacts on the same answers, first minus second.

    `verdict` is about the first. It is `better` or `worse` only when the interval of the
    difference excludes 0 and the difference is larger than the `floor`: what another kernel does
    to the metric of the original itself.
    """

    metric: str
    difference: Measurement
    verdict: Verdict
    floor: float

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json` can write."""
        return {
            "metric": self.metric,
            "difference": self.difference.to_json(),
            "floor": self.floor,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True)
class Pair:
    """Two artefacts compared."""

    first: str
    second: str
    comparisons: tuple[Comparison, ...]

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json` can write."""
        return {
            "first": self.first,
            "second": self.second,
            "comparisons": [entry.to_json() for entry in self.comparisons],
        }


@dataclass(frozen=True, slots=True)
class ComparedArtefacts:
    """Artefacts on the same tokens, nearest to the original first, and every two of them.

    `artefacts` are {name: its measurements}, `floor` the original's own in another kernel. `seen`
    says of each what of the text its calibration saw.
    """

    artefacts: Mapping[str, tuple[Measurement, ...]]
    floor: tuple[Measurement, ...]
    pairs: tuple[Pair, ...]
    seen: tuple[SeenText, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json` can write."""
        return {
            "artefacts": [
                {"name": name, "measurements": [entry.to_json() for entry in measurements]}
                for name, measurements in self.artefacts.items()
            ],
            "floor": [entry.to_json() for entry in self.floor],
            "pairs": [pair.to_json() for pair in self.pairs],
            "calibrated_on": [one.to_json() for one in self.seen],
        }


def compare_all(
    scores: Mapping[str, Scores], answers: AnswerSet, floor: Floor, *, seed: int = SEED
) -> ComparedArtefacts:
    """Every two of the artefacts {name: scores}, in the order of their first metric.

    Raises InputError unless all were scored on these answers, against the same original.
    """
    measured = {name: summarise(one, answers, seed=seed) for name, one in scores.items()}
    first = all_metrics()[0]
    sign = -1 if first.better == "higher" else 1
    order = sorted(measured, key=lambda name: sign * measured[name][0].value)
    return ComparedArtefacts(
        {name: measured[name] for name in order},
        floor.measurements,
        tuple(
            Pair(one, other, compare_scores(scores[one], scores[other], answers, floor, seed=seed))
            for one, other in combinations(order, 2)
        ),
    )


def compare_scores(
    first: Scores, second: Scores, answers: AnswerSet, floor: Floor, *, seed: int = SEED
) -> tuple[Comparison, ...]:
    """The differences of all metrics that have an interval and a better side, over all domains;
    those of the summary in every domain, too.

    Raises InputError unless both were scored on these answers, against the same original.
    """
    check_answers(first, answers)
    check_answers(second, answers)
    if first.provenance["teacher"] != second.provenance["teacher"]:
        raise InputError(
            "the two artefacts were scored against different originals: score them against one"
        )
    return tuple(
        _compare(metric, group, (first, second), floor, seed)
        for group in token_groups(answers)
        for metric in all_metrics()
        if metric.better is not None
        and (group.domain == POOLED or metric.in_summary)
        and metric.statistic.has_interval
        and is_measured(metric, first)
        and is_measured(metric, second)
        and metric.statistic.is_defined(len(group.tokens))
    )


def paired_difference(
    metric: Metric, group: TokenGroup, pair: tuple[Scores, Scores], *, seed: int = SEED
) -> Measurement:
    """A metric of the first minus that of the second, over the tokens of a group."""
    first, second = (group.collect(scores, metric.statistic.needs) for scores in pair)

    def difference(draws: Draws) -> NDArray[np.float64]:
        statistic = metric.statistic
        return statistic.evaluate(first, draws) - statistic.evaluate(second, draws)

    answers = next(iter(first.values())).answers
    interval = bootstrap(answers, difference, seed=seed, width=width_of(first))
    if metric.is_share and interval.low == interval.high == 0:  # no answer tells them apart
        interval = widened(interval, score_interval(0, 0, answers))
    return group.measurement(f"{metric.name}_difference", metric.unit, interval, answers)


def _compare(
    metric: Metric, group: TokenGroup, pair: tuple[Scores, Scores], floor: Floor, seed: int
) -> Comparison:
    difference = paired_difference(metric, group, pair, seed=seed)
    least = floor.of(metric.name)
    return Comparison(metric.name, difference, _judge(metric, difference, least), least)


def _judge(metric: Metric, difference: Measurement, floor: float) -> Verdict:
    low, high = difference.low, difference.high
    if low is None or high is None or low <= 0 <= high:
        return "not distinguishable"
    if abs(difference.value) <= floor:
        return "below the floor"
    return "better" if (high < 0) == (metric.better == "lower") else "worse"
