"""Divergence per category of text, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.evaluation.measurement import POOLED, main_kind
from secateur.release.html.forest import Line, draw_forest
from secateur.release.html.picture import Picture, Table, describe_samples, show_interval
from secateur.release.html.subjects import Subject
from secateur.release.report import summary_metrics, table_metrics


def draw_divergence(subjects: Sequence[Subject]) -> Picture | None:
    """The first metric of summaries for every domain, the worst first; None where not measured."""
    metric = summary_metrics()[0]
    lines = [
        Line("all text" if domain == POOLED else domain, one.label, entry)
        for domain in _domains(subjects)
        for one in subjects
        if (entry := one.artefact.value(metric.name, domain)) is not None
    ]
    if not lines:
        return None
    worst = max(
        lines, key=lambda line: line.entry.value if metric.better == "lower" else -line.entry.value
    )
    return Picture(
        name="divergence",
        title="Divergence by kind of text",
        label=f"{metric.title.capitalize()} from the original for each kind of text and artefact, "
        f"with 95 % intervals. It is worst for {worst.label} on {worst.group}: "
        f"{show_interval(worst.entry)} {worst.entry.unit}.",
        sample=f"{describe_samples(line.entry for line in lines)} a line",
        about="The kind of text that lost most comes first. Bars are 95 % intervals over answers.",
        spec=draw_forest(lines, f"{metric.title} ({metric.unit})"),
        table=_table(subjects),
    )


def _domains(subjects: Sequence[Subject]) -> list[str]:
    """All text first, then the domains in the order of what the worst artefact lost in them."""
    metric = summary_metrics()[0]
    kind = main_kind(subjects[0].artefact.measurements)
    lost: dict[str, float] = {}
    for one in subjects:
        for entry in one.artefact.measurements:
            if (entry.name, entry.kind) == (metric.name, kind) and entry.domain != POOLED:
                value = entry.value if metric.better == "lower" else -entry.value
                lost[entry.domain] = max(value, lost.get(entry.domain, value))
    return [POOLED, *sorted(lost, key=lambda domain: -lost[domain])]


def _table(subjects: Sequence[Subject]) -> Table:
    """All metrics of tables, for all that was measured on."""
    metrics = table_metrics()
    rows = []
    for one in subjects:
        for kind, domain in one.artefact.groups:
            cells = [one.artefact.value(metric.name, domain, kind) for metric in metrics]
            if not any(cells):
                continue
            samples = next(cell.n for cell in cells if cell is not None)
            counts = ", ".join(f"{count:,} {what}" for what, count in samples.items())
            shown = (show_interval(cell) for cell in cells)
            rows.append((one.label, kind, domain, counts, *shown))
    titles = tuple(metric.title for metric in metrics)
    columns = ("artefact", "measured on", "domain", "n", *titles)
    return Table(columns, tuple(rows), frozenset(range(4, len(columns))))
