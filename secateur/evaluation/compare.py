"""Which of two artefacts is nearer to the original: paired differences, with intervals.

Both are resampled by the same answers, so that what is hard for both does not count: the
difference is known far better than either number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from secateur.errors import InputError
from secateur.evaluation.intervals import Draws, Interval, bootstrap
from secateur.evaluation.measurement import Measurement
from secateur.evaluation.metrics.base import Metric
from secateur.evaluation.metrics.registry import all_metrics
from secateur.evaluation.scores import Scores
from secateur.evaluation.summary import (
    SEED,
    TokenGroup,
    check_answers,
    is_measured,
    token_groups,
    width_of,
)
from secateur.evaluation.tokens.answers import AnswerSet

Verdict = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of a metric between two artefacts on the same answers, first minus second.

    `verdict` is about the first. It is `better` or `worse` only when the interval of the
    difference excludes 0.
    """

    metric: str
    difference: Measurement
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json` can write."""
        return {
            "metric": self.metric,
            "difference": self.difference.to_json(),
            "verdict": self.verdict,
        }


def compare_scores(
    first: Scores, second: Scores, answers: AnswerSet, *, seed: int = SEED
) -> tuple[Comparison, ...]:
    """The differences of all metrics that have an interval and a better side, group by group.

    Raises InputError unless both were scored on these answers, against the same original.
    """
    check_answers(first, answers)
    check_answers(second, answers)
    if first.provenance["teacher"] != second.provenance["teacher"]:
        raise InputError(
            "the two artefacts were scored against different originals: score them against one"
        )
    return tuple(
        _compare(metric, group, (first, second), seed)
        for group in token_groups(answers)
        for metric in all_metrics()
        if metric.better is not None
        and metric.statistic.has_interval
        and is_measured(metric, first)
        and is_measured(metric, second)
        and metric.statistic.is_defined(len(group.tokens))
    )


def _compare(
    metric: Metric, group: TokenGroup, pair: tuple[Scores, Scores], seed: int
) -> Comparison:
    first, second = (group.collect(scores, metric.statistic.needs) for scores in pair)

    def difference(draws: Draws) -> NDArray[np.float64]:
        statistic = metric.statistic
        return statistic.evaluate(first, draws) - statistic.evaluate(second, draws)

    answers = next(iter(first.values())).answers
    interval = bootstrap(answers, difference, seed=seed, width=width_of(first))
    name = f"{metric.name}_difference"
    return Comparison(
        metric.name,
        group.measurement(name, metric.unit, interval, answers),
        _judge(metric, interval),
    )


def _judge(metric: Metric, interval: Interval) -> Verdict:
    if interval.low is None or interval.high is None or interval.low <= 0 <= interval.high:
        return "not distinguishable"
    is_lower = interval.high < 0
    return "better" if is_lower == (metric.better == "lower") else "worse"
