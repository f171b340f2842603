"""Every question accounted for, and only then an accuracy, with what it could be at best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median

import numpy as np
from numpy.typing import NDArray

from secateur.evaluation.asking.reply import Outcome
from secateur.evaluation.intervals import CONFIDENCE, Interval
from secateur.evaluation.measurement import Measurement
from secateur.evaluation.tasks.paired import KIND, mean_score
from secateur.evaluation.tasks.result import ItemResult, TaskResult

SHARE = "share of items"


@dataclass(frozen=True)
class Account:
    """What became of all questions of a task. Raises ValueError for no question.

    `weights` are what the questions of a group count, 1 on average (tasks.group); None: each 1.
    """

    result: TaskResult
    weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not self.result.items:
            raise ValueError(f"{self.result.task} has no questions")

    @property
    def items(self) -> tuple[ItemResult, ...]:
        return self.result.items

    @cached_property
    def counts(self) -> Mapping[Outcome, int]:
        """How many there are of every outcome, also of those that there are none of."""
        found = Counter(item.outcome for item in self.items)
        return {outcome: found[outcome] for outcome in Outcome}

    @cached_property
    def accuracy(self) -> Interval:
        """Strict: every failure is wrong (`paired.mean_score`)."""
        return self._mean([item.strict for item in self.items])

    @cached_property
    def as_read(self) -> float:
        """The task's own number: what could be read of a failure counts too."""
        return self._share([one.score or 0.0 for one in self.items])

    @cached_property
    def best(self) -> float:
        """The accuracy if every failure had been right."""
        return self._share([1.0 if one.failed else one.strict for one in self.items])

    @cached_property
    def patched(self) -> Interval | None:
        """The accuracy with the second pass' scores; None where no second pass was made."""
        if all(item.patched is None for item in self.items):
            return None
        scores = [item.strict if item.patched is None else item.patched for item in self.items]
        return self._mean(scores)

    @cached_property
    def _counts(self) -> NDArray[np.float64]:
        """What each item counts."""
        return np.array(
            [1.0 if self.weights is None else self.weights[item.item] for item in self.items]
        )

    @cached_property
    def _questions(self) -> NDArray[np.intp]:
        """The number of each item's question, which may have been answered several times."""
        return np.unique([item.item for item in self.items], return_inverse=True)[1]

    def _share(self, scores: Sequence[float]) -> float:
        return float(self._counts @ scores / self._counts.sum())

    def _mean(self, scores: Sequence[float]) -> Interval:
        return mean_score(np.array(scores), self._counts, self._questions)

    def lengths(self, key: str) -> list[int]:
        """Tokens of all replies that say so: "completion_tokens" or "thought_tokens"."""
        return [item.facts[key] for item in self.items if item.facts.get(key) is not None]

    def measurements(self) -> tuple[Measurement, ...]:
        """The numbers of a report, of the kind "tasks" and with the task as domain."""
        questions = 1 + int(self._questions.max())
        once = questions == len(self.items)
        more = {} if once else {"replies": len(self.items)}
        made = _Maker(self.result.task, {"items": questions, **more})
        found = [
            made.rate("accuracy", self.accuracy),
            made.plain("accuracy_as_read", self.as_read),
            made.plain("accuracy_best", self.best),
        ]
        if self.patched is not None:
            count = sum(item.patched is not None for item in self.items)
            found += [
                made.rate("accuracy_patched", self.patched),
                made.plain("patched_items", count, "items"),
            ]
        for outcome, count in self.counts.items():
            found.append(made.plain(outcome.value.replace(" ", "_"), count, "items"))
        for key in ("completion_tokens", "thought_tokens"):
            lengths = self.lengths(key)
            if any(lengths):
                of_these = replace(made, n={"items" if once else "replies": len(lengths)})
                found.append(of_these.plain(f"{key}_median", median(lengths), "tokens"))
                found.append(of_these.plain(f"{key}_largest", max(lengths), "tokens"))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class _Maker:
    task: str
    n: Mapping[str, int]

    def rate(self, name: str, found: Interval) -> Measurement:
        confidence = None if found.low is None else CONFIDENCE
        return Measurement(
            name, found.value, SHARE, self.n, found.low, found.high, confidence, self.task, KIND
        )

    def plain(self, name: str, value: float, unit: str = SHARE) -> Measurement:
        return Measurement(name, value, unit, self.n, domain=self.task, kind=KIND)
