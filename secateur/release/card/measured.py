"""What was measured of an output, as tables: divergence of every artefact, and other evidence."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.evaluation.measurement import POOLED
from secateur.evaluation.metrics.base import Metric
from secateur.release.card.facts import Fact
from secateur.release.card.making import recipe_of
from secateur.release.card.scope import Scope
from secateur.release.card.shown import Shown, show, show_if
from secateur.release.evidence import KINDS, MAIN_NUMBERS, ORIGINAL, evidence_file
from secateur.release.report import summary_metrics

ACCURACY = "accuracy"
"""The share of right answers among all that were asked (evaluation.tasks.accounting)."""

ANSWERED = ("answers", "turns", "documents")
"""What divergence is measured on; the first of them that there is counts."""


@dataclass(frozen=True)
class Number:
    """A measurement: its value, its interval, and how many samples stand behind it."""

    value: Shown
    unit: Shown
    low: Shown | None
    high: Shown | None
    confidence: Shown | None
    samples: list[tuple[Shown, Shown]]
    domain: Shown


@dataclass(frozen=True)
class Measured:
    """An artefact's pooled numbers, in the order of the metrics, and its worst domain."""

    name: Shown
    recipe: Shown
    size: Shown
    cells: list[Number | None]
    worst: Number | None


@dataclass(frozen=True)
class Line:
    """A number of an artefact that was asked, and the original's of the same name and domain."""

    artefact: Shown
    title: Shown
    domain: Shown
    number: Number
    original: Number | None


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


_OF_TASKS = ("accuracy_difference", "p_value", "flips_lost", "flips_gained", "calibration_overlap")


def divergence_of(scope: Scope) -> Mapping[str, Any] | None:
    """The report as a table; None where nothing was measured."""
    report = scope.results.report
    if report is None:
        return None
    metrics = summary_metrics()
    artefacts = [_measured(scope, one, metrics) for one in artefacts_in(scope, report)]
    titles = [_titles(artefacts_in(scope, report), metric) for metric in metrics]
    answers = report["answers"]
    return {
        "artefacts": artefacts,
        "titles": [title for title in titles if title is not None],
        "original": show(report["original"], "code"),
        "original_bytes": show(report["original_bytes"], "size"),
        "samples": [
            (show(fact, "count"), show(fact, "words of key"))
            for kind in ANSWERED
            if (fact := answers.get(kind)) is not None and fact.value
        ],
        "tokens": show(answers["tokens"], "count"),
        "cut": show_if(answers.get("finishes", "length"), "count"),
        "sha256": show(answers["sha256"], "code"),
        "gates": [show(gate, "code") for gate in report.get("gates") or ()],
        "confidence": next(
            (cell.confidence for one in artefacts for cell in one.cells if cell and cell.low), None
        ),
    }


def evidence_of(scope: Scope) -> list[tuple[str, list[Line], list[Shown]]]:
    """(kind, its main numbers, its notes) of all evidence beside divergence: over all domains where
    there is such a number; of tasks none (`tasks_of`)."""
    found: list[tuple[str, list[Line], list[Shown]]] = []
    for kind in KINDS:
        content = scope.results.find(evidence_file(kind))
        if content is not None:
            notes = [show(note) for note in content.get("notes") or ()]
            lines = [] if kind == "tasks" else list(_lines(scope, content, MAIN_NUMBERS[kind]))
            pooled = [line for line in lines if line.domain.fact.value == POOLED]
            found.append((kind, pooled or lines, notes))
    return found


def tasks_of(scope: Scope) -> list[Task]:
    """Every task that an artefact was asked: its accuracy, the original's, and the difference."""
    content = scope.results.find(evidence_file("tasks"))
    if content is None:
        return []
    original = _original(content)
    found = []
    for artefact in artefacts_in(scope, content):
        for entry in artefact["measurements"]:
            if entry.value["name"] != ACCURACY:
                continue
            domain = str(entry.value["domain"])
            beside = _number_in(original, ACCURACY, domain) if original else None
            more = {name: _number_in(artefact, name, domain) for name in _OF_TASKS}
            found.append(
                Task(show(artefact["name"], "code"), entry, number_of(entry), beside, **more)
            )
    return found


def artefacts_in(scope: Scope, report: Fact) -> list[Fact]:
    """The artefacts of a result that belong to the outputs released."""
    return [
        one
        for one in report["artefacts"]
        if any(output.owns(one.value["name"]) for output in scope.outputs)
    ]


def number_of(entry: Fact) -> Number:
    """A measurement as a card shows it."""
    return Number(
        show(entry["value"], "number"),
        show(entry["unit"]),
        show_if(entry.get("low"), "number"),
        show_if(entry.get("high"), "number"),
        show_if(entry.get("confidence"), "whole percent"),
        [(show(count, "count"), show(count, "words of key")) for count in entry["n"]],
        show(entry["domain"]),
    )


def main_kind_of(artefact: Fact) -> str:
    """What the numbers that count were measured on."""
    kinds = {entry.value["kind"] for entry in artefact["measurements"]}
    return next((kind for kind in ANSWERED if kind in kinds), ANSWERED[0])


def worst_of(artefact: Fact) -> Fact | None:
    """The first summary metric where it is farthest from the original; None with one domain."""
    first, kind = summary_metrics()[0], main_kind_of(artefact)
    found = [
        entry
        for entry in artefact["measurements"]
        if (entry.value["name"], entry.value["kind"]) == (first.name, kind)
        and entry.value["domain"] != POOLED
    ]
    if len(found) < 2:
        return None
    return (max if first.better == "lower" else min)(found, key=lambda entry: entry.value["value"])


def find_number(artefact: Fact, name: str, domain: str, kind: str) -> Fact | None:
    """The measurement of that name, domain and kind."""
    for entry in artefact["measurements"]:
        if (entry.value["name"], entry.value["domain"], entry.value["kind"]) == (
            name,
            domain,
            kind,
        ):
            return entry
    return None


def _measured(scope: Scope, artefact: Fact, metrics: Sequence[Metric]) -> Measured:
    kind = main_kind_of(artefact)
    cells = [find_number(artefact, metric.name, POOLED, kind) for metric in metrics]
    worst = worst_of(artefact)
    return Measured(
        show(artefact["name"], "code"),
        next(recipe_of(one) for one in scope.outputs if one.owns(artefact.value["name"])),
        show(artefact["bytes"], "size"),
        [None if cell is None else number_of(cell) for cell in cells],
        None if worst is None else number_of(worst),
    )


def _titles(artefacts: Sequence[Fact], metric: Metric) -> Shown | None:
    """The title of a metric, from the first artefact that has it."""
    for artefact in artefacts:
        found = find_number(artefact, metric.name, POOLED, main_kind_of(artefact))
        if found is not None:
            return show(found["name"], "title")
    return None


def _lines(scope: Scope, content: Fact, names: Collection[str]) -> Iterator[Line]:
    original = _original(content)
    for artefact in artefacts_in(scope, content):
        for entry in artefact["measurements"]:
            value = entry.value
            if value["name"] not in names:
                continue
            beside = original and find_number(
                original, value["name"], value["domain"], value["kind"]
            )
            yield Line(
                show(artefact["name"], "code"),
                show(entry["name"], "title"),
                show(entry["domain"]),
                number_of(entry),
                number_of(beside) if beside else None,
            )


def _original(content: Fact) -> Fact | None:
    return next((one for one in content["artefacts"] if one.value["name"] == ORIGINAL), None)


def _number_in(artefact: Fact, name: str, domain: str) -> Number | None:
    found = find_number(artefact, name, domain, "tasks")
    return None if found is None else number_of(found)
