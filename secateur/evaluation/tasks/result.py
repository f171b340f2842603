"""What became of one question of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from secateur.evaluation.asking.question import Question
from secateur.evaluation.asking.reply import WHOLE, Outcome


@dataclass(frozen=True, slots=True)
class ItemResult:
    """One question: `outcome` says what kind of an answer there is, `score` (0 to 1) how right it
    is, None where there is nothing to score.

    `read` is what was read out of the answer, `expected` what would have been right. `patched` is
    the score of the second pass, None where none was made. `facts` are those of the reply;
    `question` is as it was asked, and no part of the JSON: some data may not be published. A
    question that was answered several times is an item for each `epoch`, all of one name.
    """

    task: str
    item: str
    outcome: Outcome
    score: float | None
    read: str | None = None
    expected: Any = None
    patched: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    question: Question | None = field(default=None, repr=False)
    epoch: int = 1

    @property
    def failed(self) -> bool:
        """Whether its score says nothing of what the model knows."""
        return self.outcome not in WHOLE

    @property
    def strict(self) -> float:
        """The score, where a failure is a wrong answer."""
        return 0.0 if self.failed else self.score or 0.0

    def to_json(self) -> dict[str, Any]:
        """As JSON, without the task."""
        found: dict[str, Any] = {"item": self.item, "outcome": self.outcome.value}
        if self.epoch > 1:
            found["epoch"] = self.epoch
        found |= {"score": self.score, "read": self.read, "expected": self.expected}
        if self.patched is not None:
            found["patched"] = self.patched
        return {**found, "reply": dict(self.facts)}


@dataclass(frozen=True, slots=True)
class TaskResult:
    """All questions of a task that one model was asked. `sha256` is of the questions, `version` of
    the task, `metric` what the score is called there."""

    task: str
    items: tuple[ItemResult, ...]
    sha256: str
    version: str
    metric: str = "accuracy"

    @property
    def scores(self) -> Mapping[str, Sequence[float]]:
        """{item: the strict scores of its answers}, as they are compared in pairs."""
        found: dict[str, list[float]] = {}
        for one in self.items:
            found.setdefault(one.item, []).append(one.strict)
        return found
