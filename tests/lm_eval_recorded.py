"""lm-eval itself, with answers that were given before in the place of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager


class Recorded(LM):  # type: ignore[misc]
    """Gives lm-eval the answers that were given before."""

    def __init__(self, answers: Mapping[tuple[str, int], str]) -> None:
        super().__init__()
        self.answers = answers

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        return [self.answers[str(one.task_name), int(one.doc_id)] for one in requests]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        raise NotImplementedError


def evaluate_recorded(
    answers: Mapping[tuple[str, int], str], task: str, folder: Path
) -> dict[str, Any]:
    """What lm-eval makes of answers, {(task, document): answer}, to a task in a folder's files."""
    found: dict[str, Any] = lm_eval.simple_evaluate(
        model=Recorded(answers),
        tasks=[task],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=False,
    )
    return found
