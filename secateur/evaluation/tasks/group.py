"""Groups of lm-eval's tasks: one number for all of them, as mmlu has for its subjects."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from secateur.evaluation.intervals import CONFIDENCE, interval_from_error
from secateur.evaluation.measurement import Measurement
from secateur.evaluation.tasks.paired import KIND
from secateur.evaluation.tasks.result import TaskResult

AGGREGATE = "aggregate"
"""The name of lm-eval's own number for a group."""


@dataclass(frozen=True, slots=True)
class GroupRule:
    """The tasks of a group, and whether every question counts the same (`by_size`), else every task
    does."""

    tasks: tuple[str, ...]
    by_size: bool

    def weights(self, items: Mapping[str, Collection[str]]) -> Mapping[str, float] | None:
        """What each of the items, {task: their names}, counts, 1 on average: by TASK/ITEM, its name
        in the group. None where all count 1."""
        if self.by_size:
            return None
        own = [task for task in self.tasks if task in items]
        total = sum(len(items[task]) for task in own)
        return {
            in_group(task, item): total / len(own) / len(items[task])
            for task in own
            for item in items[task]
        }


def in_group(task: str, item: str) -> str:
    """The name that an item of a task has in a group."""
    return f"{task}/{item}"


@dataclass(frozen=True, slots=True)
class GroupResult:
    """What lm-eval makes of the tasks of a group: `value` and `stderr` (None where it gives none)
    are of `metric`, its own, over `items` questions; `is_share` where each has 0 to 1.
    """

    group: str
    rule: GroupRule
    metric: str
    value: float
    stderr: float | None
    items: int
    is_share: bool = True

    def joined(self, results: Sequence[TaskResult]) -> TaskResult:
        """All questions of its tasks as those of one task; an item is called TASK/ITEM."""
        own = [one for one in results if one.task in self.rule.tasks]
        items = tuple(
            replace(item, item=in_group(one.task, item.item)) for one in own for item in one.items
        )
        return TaskResult(self.group, items, "", "", self.metric)

    def weights(self, results: Sequence[TaskResult]) -> Mapping[str, float] | None:
        """What a question counts, of those of `joined`, 1 on average; None where all count 1."""
        return self.rule.weights({one.task: [item.item for item in one.items] for one in results})

    def aggregate(self) -> Measurement:
        """lm-eval's number, with the 95 % interval that its standard error gives: of a share
        between 0 and 1, of another number (a score of translations) on both sides alike."""
        low, high = self._bounds()
        return Measurement(
            AGGREGATE,
            self.value,
            f"{self.metric}, {'questions' if self.rule.by_size else 'tasks'} count the same",
            {"items": self.items, "tasks": len(self.rule.tasks)},
            low,
            high,
            None if low is None else CONFIDENCE,
            self.group,
            KIND,
        )

    def _bounds(self) -> tuple[float | None, float | None]:
        if self.stderr is None:
            return None, None
        if self.is_share:
            found = interval_from_error(self.value, self.stderr, self.items)
            return found.low, found.high
        from scipy import stats

        spread = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * self.stderr
        return self.value - spread, self.value + spread
