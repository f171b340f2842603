"""The tasks that a word may name: built-in suites, files for lm-eval, and lm-eval's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur.errors import RequestError
from secateur.evaluation.tasks.suites.base import Suite
from secateur.evaluation.tasks.suites.registry import SUITES

_YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class FoundTasks:
    """`suites` are built in; `files` define tasks of lm-eval; `harness` are names of its own."""

    suites: tuple[Suite, ...]
    files: tuple[Path, ...]
    harness: tuple[str, ...]


def find_tasks(names: Sequence[str]) -> FoundTasks:
    """Sort names by where their tasks come from.

    Raises RequestError for a file that is not there. Whether lm-eval has a name shows when it is
    asked for it.
    """
    files = tuple(Path(name) for name in names if name.endswith(_YAML))
    if missing := next((path for path in files if not path.is_file()), None):
        raise RequestError(f"{missing} is not there, expected a task of lm-eval in YAML")
    others = [name for name in names if not name.endswith(_YAML)]
    return FoundTasks(
        tuple(SUITES[name] for name in others if name in SUITES),
        files,
        tuple(name for name in others if name not in SUITES),
    )
