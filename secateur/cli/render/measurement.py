"""What `secateur measure` and `secateur shrink` print for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secateur.cli.render.evidence import evidence_lines
from secateur.cli.render.table import Table
from secateur.evaluation.compare import ComparedArtefacts
from secateur.evaluation.engine_metrics import ENGINE_COLUMNS, KIND
from secateur.evaluation.floor import KERNEL
from secateur.evaluation.measurement import POOLED, Measurement, find_measurement, main_kind
from secateur.evaluation.metrics.router import AGREEMENT
from secateur.release.measured_on import describe_measured_on
from secateur.release.report import (
    ArtefactReport,
    Report,
    other_metrics,
    summary_metrics,
    table_metrics,
    worst_domain,
)
from secateur.system.sizes import show_bytes


def measurement_lines(report: Report, *, by_domain: bool = False) -> list[str | Table]:
    """A row per artefact, then llama.cpp's; with `by_domain` a table of domains for each."""
    first, *others = describe_measured_on(report.answers)
    lines: list[str | Table] = [
        f"against {report.original}, {first}; in brackets 95 % intervals over answers",
        *others,
        _summary(report),
        *floor_line(report.floor),
    ]
    if by_domain:
        for artefact in report.artefacts:
            lines += [f"{artefact.name}, by domain:", _domains(artefact)]
        lines.append(_others(report))
    engine = [(one.name, _engine_cells(one)) for one in report.artefacts]
    if rows := [[name, *cells] for name, cells in engine if any(cells)]:
        head = ["in the engine", *(f"{metric.title} ({metric.unit})" for metric in ENGINE_COLUMNS)]
        lines.append(Table(head, rows))
    for evidence in report.evidence:
        lines += evidence_lines(evidence)
    return lines


def measured_json(report: Report) -> dict[str, Any]:
    """The report with what was asked in the same run."""
    return {**report.to_json(), **{one.kind: one.to_json() for one in report.evidence}}


def floor_line(floor: Sequence[Measurement]) -> list[str]:
    """What another kernel does to the original itself."""
    found = find_measurement(floor, summary_metrics()[0].name)
    if found is None:
        return []
    return [
        f"floor: the original's own weights with {KERNEL} have {_cell(found, spread=True)} "
        f"({found.n['tokens']:,} tokens); what differs by less is not told apart"
    ]


def comparison_lines(found: ComparedArtefacts) -> list[str | Table]:
    """The artefacts, nearest first, then every two: all differences over all domains, and with one
    pair the first metric's in each."""
    kind = main_kind([entry for one in found.artefacts.values() for entry in one])
    metrics = summary_metrics()
    rows = []
    for name, entries in found.artefacts.items():
        cells = [find_measurement(entries, metric.name) for metric in metrics]
        rows.append([name, *(_cell(entry, spread=True) for entry in cells)])
    head = ["nearest first", *(f"{metric.title} ({metric.unit})" for metric in metrics)]
    lines: list[str | Table] = [Table(head, rows), *floor_line(found.floor)]
    for pair in found.pairs:
        lines.append(f"{pair.first} against {pair.second}, first minus second:")
        lines += [
            f"  {entry.difference}: {entry.verdict}"
            for entry in pair.comparisons
            if entry.difference.kind == kind
            and (
                entry.difference.domain == POOLED
                or (len(found.pairs) == 1 and entry.metric == metrics[0].name)
            )
        ]
    if len(found.pairs) > 1:
        lines.append(
            f"{len(found.pairs)} pairs, each with an interval of 95 %: of twenty that do not "
            "differ, one may seem to"
        )
    return [*lines, *(f"note: {one.describe()}" for one in found.seen if one.seen != 0)]


def shrink_lines(report: Report, out: Path, *, by_domain: bool = False) -> list[str | Table]:
    """The end of the main job: what was found, what to know of it, and where the report lies."""
    odd = [
        f"{form}: {sizes['written']:,} bytes, NOT {sizes['predicted']:,} as predicted"
        for form, sizes in report.sizes.items()
        if sizes["written"] != sizes["predicted"]
    ]
    return [
        *measurement_lines(report, by_domain=by_domain),
        *(odd or ["all sizes are as the plan predicted, to the byte"]),
        *(f"note: {note}" for note in report.notes),
        f"report: {out / 'report.md'}",
    ]


def _summary(report: Report) -> Table:
    metrics = summary_metrics()
    rows = [["the original", show_bytes(report.original_bytes), "100 %", *[""] * len(metrics), ""]]
    if report.floor:
        found = [find_measurement(report.floor, metric.name) for metric in metrics]
        cells = (_cell(entry, spread=place == 0) for place, entry in enumerate(found))
        rows.append(["the original, another kernel", "", "", *cells, ""])
    for artefact in report.artefacts:
        found = [artefact.value(metric.name) for metric in metrics]
        worst = worst_domain(artefact)
        rows.append(
            [
                artefact.name,
                show_bytes(artefact.bytes),
                f"{100 * artefact.bytes / report.original_bytes:.1f} %",
                *(_cell(entry, spread=place == 0) for place, entry in enumerate(found)),
                "" if worst is None else _worst(worst),
            ]
        )
    head = ["", "size", "share", *(metric.title for metric in metrics), "worst domain"]
    return Table(head, rows)


def _worst(worst: Measurement) -> str:
    return f"{worst.domain} {_cell(worst, spread=True)}, n = {worst.n[worst.kind]}"


def _domains(artefact: ArtefactReport) -> Table:
    metrics = table_metrics()
    rows = []
    for kind, domain in artefact.groups:
        found = [artefact.value(metric.name, domain, kind) for metric in metrics]
        samples = next(entry.n for entry in found if entry is not None)
        cells = [_cell(entry, spread=place == 0) for place, entry in enumerate(found)]
        rows.append([domain, f"{samples[kind]} {kind}", f"{samples['tokens']:,}", *cells])
    return Table(["domain", "n", "tokens", *(metric.title for metric in metrics)], rows)


def _others(report: Report) -> Table:
    rows = []
    for metric in other_metrics():
        found = [artefact.value(metric.name) for artefact in report.artefacts]
        if any(found):
            cells = [_cell(entry, spread=True) for entry in found]
            rows.append([f"{metric.title} ({metric.unit})", *cells])
    for name in dict.fromkeys(entry.domain for one in report.artefacts for entry in one.layers):
        by_layer = [{entry.domain: entry for entry in one.layers} for one in report.artefacts]
        cells = [_cell(layers.get(name), spread=True) for layers in by_layer]
        rows.append([f"{AGREEMENT.title}, {name}", *cells])
    return Table(["over all domains", *(artefact.name for artefact in report.artefacts)], rows)


def _engine_cells(artefact: ArtefactReport) -> list[str]:
    return [_cell(artefact.value(metric.name, kind=KIND), spread=True) for metric in ENGINE_COLUMNS]


def _cell(entry: Measurement | None, *, spread: bool) -> str:
    """Three digits, with the interval if that is wanted and known."""
    if entry is None:
        return ""
    known = spread and entry.low is not None
    return f"{entry.value:.3g}" + (f" [{entry.low:.3g}, {entry.high:.3g}]" if known else "")
