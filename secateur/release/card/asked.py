"""What models were asked, as tables of a card: tasks, loops and speed, the original beside."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from secateur.evaluation.measurement import POOLED
from secateur.release.card.facts import Fact
from secateur.release.card.measured import Number, artefacts_in, find_number, number_of
from secateur.release.card.scope import Scope
from secateur.release.card.shown import Shown, show
from secateur.release.evidence import KINDS, MAIN_NUMBERS, ORIGINAL, evidence_file

ACCURACY = "accuracy"
"""The share of right answers among all that were asked (evaluation.tasks.accounting)."""

MANY_TASKS = 12
"""Rows of artefacts and tasks from which on an artefact has one row for all its tasks."""

FEW_NOTES = 3
"""Notes that stand open; more are folded."""

_OF_TASKS = ("accuracy_difference", "p_value", "flips_lost", "flips_gained", "calibration_overlap")


@dataclass(frozen=True)
class Row:
    """A model's numbers, in the order of the columns; `of` is the domain where it is not all."""

    artefact: Shown
    of: Shown | None
    cells: list[Number | None]
    samples: list[tuple[Shown, Shown]]


@dataclass(frozen=True)
class Numbers:
    """The main numbers of a kind: columns (title, unit), and a row for each model and domain."""

    columns: list[tuple[Shown, Shown]]
    rows: list[Row]
    has_domains: bool


@dataclass(frozen=True)
class Task:
    """A task's accuracy, `fact` and number, the original's on the same items, and their paired
    difference: its p, the answers that were lost and gained, and how much of the items the
    calibration saw. What was not measured is None."""

    artefact: Shown
    fact: Fact
    accuracy: Number
    original: Number | None
    accuracy_difference: Number | None
    p_value: Number | None
    flips_lost: Number | None
    flips_gained: Number | None
    calibration_overlap: Number | None


@dataclass(frozen=True)
class Section:
    """A kind of evidence: of tasks `tasks`, or with many of them `by_artefact` (a row for each of
    them, a cell for each of `names`); of the other kinds `numbers`. `notes` say how it was asked,
    `folded` is whether they are many."""

    kind: str
    notes: list[Shown]
    folded: bool
    numbers: Numbers | None = None
    tasks: tuple[Task, ...] = ()
    names: tuple[Shown, ...] = ()
    by_artefact: tuple[tuple[Shown, list[Task | None]], ...] = ()


def sections_of(scope: Scope) -> list[Section]:
    """All evidence beside divergence, in the order of `KINDS`."""
    found = []
    for kind in KINDS:
        content = scope.results.find(evidence_file(kind))
        if content is None:
            continue
        notes = [show(note) for note in content.get("notes") or ()]
        folded = len(notes) > FEW_NOTES
        if kind == "tasks":
            found.append(_section_of_tasks(scope, content, notes, folded))
        else:
            numbers = _numbers(scope, content, MAIN_NUMBERS[kind])
            found.append(Section(kind, notes, folded, numbers))
    return found


def tasks_of(scope: Scope) -> list[Task]:
    """Every task that an artefact was asked: its accuracy, the original's, and the difference."""
    content = scope.results.find(evidence_file("tasks"))
    if content is None:
        return []
    return [task for artefact in artefacts_in(scope, content) for task in _tasks(content, artefact)]


def _section_of_tasks(scope: Scope, content: Fact, notes: list[Shown], folded: bool) -> Section:
    tasks = tuple(tasks_of(scope))
    names = {task.accuracy.domain.text: task.accuracy.domain for task in tasks}
    if len(tasks) <= MANY_TASKS:
        return Section("tasks", notes, folded, tasks=tasks)
    original = _original(content)
    asked = [*([original] if original else []), *artefacts_in(scope, content)]
    rows = []
    for artefact in asked:
        by_name = {task.accuracy.domain.text: task for task in _tasks(content, artefact)}
        rows.append((show(artefact["name"], "code"), [by_name.get(name) for name in names]))
    return Section(
        "tasks", notes, folded, names=tuple(names.values()), by_artefact=tuple(rows), tasks=tasks
    )


def _tasks(content: Fact, artefact: Fact) -> list[Task]:
    original = _original(content)
    found = []
    for entry in artefact["measurements"]:
        if entry.value["name"] != ACCURACY:
            continue
        domain = str(entry.value["domain"])
        beside = _number_in(original, ACCURACY, domain) if original else None
        more = {name: _number_in(artefact, name, domain) for name in _OF_TASKS}
        name = show(artefact["name"], "code")
        found.append(Task(name, entry, number_of(entry), beside, **more))
    return found


def _numbers(scope: Scope, content: Fact, names: Collection[str]) -> Numbers:
    """Over all domains where there is such a number, else of each domain."""
    original = _original(content)
    models = [*([original] if original else []), *artefacts_in(scope, content)]
    entries = [
        (model, entry)
        for model in models
        for entry in model["measurements"]
        if entry.value["name"] in names
    ]
    pooled = [pair for pair in entries if pair[1].value["domain"] == POOLED]
    entries = pooled or entries
    columns = {
        name: entry
        for name in names
        for _, entry in reversed(entries)
        if entry.value["name"] == name
    }
    rows: dict[tuple[str, str], dict[str, Fact]] = {}
    places: dict[tuple[str, str], tuple[Fact, Fact]] = {}
    for model, entry in entries:
        key = str(model.value["name"]), str(entry.value["domain"])
        rows.setdefault(key, {})[entry.value["name"]] = entry
        places.setdefault(key, (model["name"], entry))
    return Numbers(
        [(show(entry["name"], "asked title"), show(entry["unit"])) for entry in columns.values()],
        [
            Row(
                show(name, "code"),
                None if pooled else show(first["domain"]),
                [
                    number_of(rows[key][column]) if column in rows[key] else None
                    for column in columns
                ],
                number_of(first).samples,
            )
            for key, (name, first) in places.items()
        ],
        not pooled,
    )


def _original(content: Fact) -> Fact | None:
    return next((one for one in content["artefacts"] if one.value["name"] == ORIGINAL), None)


def _number_in(artefact: Fact, name: str, domain: str) -> Number | None:
    found = find_number(artefact, name, domain, "tasks")
    return None if found is None else number_of(found)
