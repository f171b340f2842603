"""Comparing what folders hold of tasks: every two models on the questions that both were asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from secateur.api.models import File
from secateur.errors import InputError, OutputError
from secateur.evaluation.asking.lock import RunLock, compare_locks
from secateur.evaluation.asking.reply import WHOLE
from secateur.evaluation.tasks.group import AGGREGATE, GroupRule, in_group
from secateur.evaluation.tasks.paired import PairedResult, Scores, compare_paired, same_questions
from secateur.release.evidence import ORIGINAL, evidence_file, read_evidence, read_items
from secateur.system.text_files import explain

_WHOLE = {outcome.value for outcome in WHOLE}


@dataclass(frozen=True)
class KeptTasks:
    """A model, the lock under which it was asked, {task: {item: strict scores}}, and the groups of
    its tasks."""

    name: str
    lock: RunLock
    scores: Mapping[str, Scores]
    groups: Mapping[str, GroupRule]


@dataclass(frozen=True)
class TaskPair:
    """Two models on every task and group that both were asked, `second` minus `first`; `note` is
    what has to be known of it, and where their locks forbid it there are no `tasks`."""

    first: str
    second: str
    tasks: tuple[PairedResult, ...]
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json` can write."""
        return {
            "first": self.first,
            "second": self.second,
            "note": self.note,
            "tasks": [
                {"task": one.task, "measurements": [m.to_json() for m in one.measurements()]}
                for one in self.tasks
            ],
        }


def has_tasks(path: Path) -> bool:
    """Whether a folder holds what was measured of tasks."""
    return (path / evidence_file("tasks")).is_file()


def compare_tasks(folders: Sequence[File], anyway: bool = False) -> tuple[TaskPair, ...]:
    """Every two models of some folders that were measured with tasks, originals apart, in pairs.

    `anyway` compares also what was asked under different conditions. Raises OutputError for a
    folder without tasks, InputError where there are not two models.
    """
    models = [model for folder in folders for model in read_kept_tasks(Path(folder))]
    if len(models) < 2:
        raise InputError(
            f"there is nothing to compare {models[0].name if models else 'nothing'} with: name two "
            "folders or more that hold tasks"
        )
    return tuple(_compare(*pair, anyway) for pair in combinations(models, 2))


def read_kept_tasks(folder: Path) -> tuple[KeptTasks, ...]:
    """The models in a folder, without the original. Raises OutputError."""
    evidence = read_evidence(folder, "tasks")
    if evidence is None:
        raise OutputError(f"{folder} holds no tasks: measure it with --tasks first")
    found = []
    for one in evidence.artefacts:
        if one.name == ORIGINAL:
            continue
        tasks = [entry.domain for entry in one.measurements if entry.name == "accuracy"]
        try:
            groups = {entry.domain for entry in one.measurements if entry.name == AGGREGATE}
            rules = {
                name: GroupRule(tuple(rule["tasks"]), bool(rule["by_size"]))
                for name, rule in evidence.facts.get("groups", {}).items()
                if name in groups
            }
            lock = {key: value for key, value in one.facts["lock"].items() if key != "sha256"}
            scores = {
                task: _scores(read_items(folder, "tasks", f"{one.name}/{task}"))
                for task in tasks
                if task not in groups
            }
            found.append(KeptTasks(f"{folder.name}/{one.name}", RunLock(**lock), scores, rules))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise OutputError(
                f"{folder}: the tasks of {one.name} are not what secateur wrote "
                f"({explain(error)}): measure them again"
            ) from None
    return tuple(found)


def _scores(items: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """{item: the strict scores of its answers}."""
    found: dict[str, list[float]] = {}
    for item in items:
        strict = float(item["score"] or 0) if item["outcome"] in _WHOLE else 0.0
        found.setdefault(str(item["item"]), []).append(strict)
    return found


def _compare(first: KeptTasks, second: KeptTasks, anyway: bool) -> TaskPair:
    same = [
        task
        for task, scores in first.scores.items()
        if same_questions(scores, second.scores.get(task, {}))
    ]
    if not same:
        return TaskPair(
            first.name, second.name, (), "they have no task whose questions both were asked"
        )
    one, other = (_limit(model.lock, same) for model in (first, second))
    found = compare_locks(second.name, one, other, anyway, first.name)
    if not found.compared:
        return TaskPair(first.name, second.name, (), found.note)
    tasks = [compare_paired(task, first.scores[task], second.scores[task]) for task in same]
    tasks += [
        _compare_group(name, rule, first, second)
        for name, rule in first.groups.items()
        if second.groups.get(name) == rule and set(rule.tasks) <= set(same)
    ]
    return TaskPair(first.name, second.name, tuple(tasks), found.note)


def _compare_group(name: str, rule: GroupRule, first: KeptTasks, second: KeptTasks) -> PairedResult:
    """All questions of a group's tasks as those of one task, with what they count there."""
    before, after = (
        {
            in_group(task, item): score
            for task in rule.tasks
            for item, score in model.scores[task].items()
        }
        for model in (first, second)
    )
    return compare_paired(name, before, after, weights=rule.weights(first.scores))


def _limit(lock: RunLock, tasks: Sequence[str]) -> RunLock:
    """A lock with the data of these tasks alone."""
    return replace(lock, data={task: lock.data[task] for task in tasks if task in lock.data})
