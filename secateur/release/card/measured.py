"""What was measured of an output, as a table: the divergence of every artefact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.evaluation.measurement import POOLED
from secateur.evaluation.metrics.base import Metric
from secateur.release.card.facts import DECLARED, Fact
from secateur.release.card.scope import Scope
from secateur.release.card.shown import Shown, show, show_if
from secateur.release.report import summary_metrics

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
    cells: list[Number | None]
    worst: Number | None


def divergence_of(scope: Scope) -> Mapping[str, Any] | None:
    """What divergence was measured on, and its numbers by artefact; None where it was not."""
    report = scope.results.report
    if report is None:
        return None
    found = artefacts_in(scope, report)
    titles = {metric: _title(found, metric) for metric in summary_metrics()}
    metrics = [metric for metric, title in titles.items() if title is not None]
    artefacts = [_measured(one, metrics) for one in found]
    floor = floor_of(report)
    answers = report["answers"]
    return {
        "artefacts": {one.name.text: one for one in artefacts},
        "titles": [title for title in titles.values() if title is not None],
        "floor": None if floor is None else number_of(floor),
        "original": show(report["original"], "code"),
        "original_bytes": show(report["original_bytes"], "size"),
        "samples": [
            (show(fact, "count"), show(fact, "words of key"))
            for kind in ANSWERED
            if (fact := answers.get(kind)) is not None and fact.value
        ],
        "tokens": show(answers["tokens"], "count"),
        "cut": show_if(answers.get("finishes", "length"), "count"),
        "gates": _gates(scope, report),
        "confidence": next(
            (cell.confidence for one in artefacts for cell in one.cells if cell and cell.low), None
        ),
    }


def _gates(scope: Scope, report: Fact) -> list[Shown]:
    """The limits that it was measured with, and those that releasing held it to as well."""
    found = [show(gate, "code") for gate in report.get("gates") or ()]
    more = scope.results.at(DECLARED, ("gates",))
    return found if more is None else [*found, show(more, "code")]


def floor_of(report: Fact) -> Fact | None:
    """The original's own first summary metric in another kernel; None where it was not measured."""
    name = summary_metrics()[0].name
    found = (
        entry
        for entry in report.get("floor") or ()
        if (entry.value["name"], entry.value["domain"]) == (name, POOLED)
    )
    return next(found, None)


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


def _measured(artefact: Fact, metrics: Sequence[Metric]) -> Measured:
    kind = main_kind_of(artefact)
    cells = [find_number(artefact, metric.name, POOLED, kind) for metric in metrics]
    worst = worst_of(artefact)
    return Measured(
        show(artefact["name"], "code"),
        [None if cell is None else number_of(cell) for cell in cells],
        None if worst is None else number_of(worst),
    )


def _title(artefacts: Sequence[Fact], metric: Metric) -> Shown | None:
    """The title of a metric, from the first artefact that has it."""
    for artefact in artefacts:
        found = find_number(artefact, metric.name, POOLED, main_kind_of(artefact))
        if found is not None:
            return show(found["name"], "title")
    return None
