"""Size against divergence, over all artefacts: which ones no smaller one matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.release.html.picture import (
    ROWS,
    Picture,
    Table,
    describe_samples,
    show_interval,
    specification,
    tooltips,
)
from secateur.release.html.subjects import Subject
from secateur.release.html.theme import ACCENT, HALO, INK, SOFT
from secateur.release.report import summary_metrics
from secateur.system.sizes import show_bytes

_HEIGHT = 360
_LOGARITHMIC = 20
"""Largest over smallest divergence from which on the axis is logarithmic."""


def frontier(subjects: Sequence[Subject]) -> tuple[str, ...]:
    """The labels of the artefacts that no artefact of at most their size comes nearer to the
    original than, by the first metric of summaries; ascending in size."""
    found: list[str] = []
    best = float("inf")
    for one in sorted(_measured(subjects), key=lambda one: (one.artefact.bytes, _value(one))):
        if _value(one) < best:
            best = _value(one)
            found.append(one.label)
    return tuple(found)


def draw_frontier(subjects: Sequence[Subject]) -> Picture | None:
    """None with fewer than two artefacts that were measured."""
    measured = _measured(subjects)
    if len(measured) < 2:
        return None
    metric = summary_metrics()[0]
    best = frontier(measured)
    rows = [_row(one, one.label in best) for one in measured]
    entries = [one.artefact.value(metric.name) for one in measured]
    least, most = (measured[0], measured[-1]) if len(best) < 2 else _ends(measured, best)
    label = (
        f"{len(measured)} artefacts by size and {metric.title} from the original. From "
        f"{least.label} with {show_bytes(least.artefact.bytes)} and "
        f"{show_interval(least.artefact.value(metric.name))} to {most.label} with "
        f"{show_bytes(most.artefact.bytes)} and {show_interval(most.artefact.value(metric.name))}."
    )
    return Picture(
        name="size-and-divergence",
        title="Size against divergence",
        label=label,
        sample=describe_samples(entry for entry in entries if entry is not None),
        about="The line joins the artefacts that no smaller one matches, and names them. Bars are "
        "95 % intervals. Whether two artefacts differ is for secateur compare to say, in pairs.",
        spec=_chart(rows, f"{metric.title} ({metric.unit})", subjects),
        table=_table(measured, best),
    )


def _ends(measured: Sequence[Subject], best: Sequence[str]) -> tuple[Subject, Subject]:
    by_label = {one.label: one for one in measured}
    return by_label[best[0]], by_label[best[-1]]


def _measured(subjects: Sequence[Subject]) -> list[Subject]:
    name = summary_metrics()[0].name
    return [one for one in subjects if one.artefact.value(name) is not None]


def _value(subject: Subject) -> float:
    entry = subject.artefact.value(summary_metrics()[0].name)
    assert entry is not None
    return entry.value


def _row(one: Subject, is_best: bool) -> dict[str, Any]:
    entry = one.artefact.value(summary_metrics()[0].name)
    assert entry is not None
    unit = _unit(one.results.report.original_bytes)[0]
    return {
        "label": one.label,
        "group": one.output or one.form,
        "size": one.artefact.bytes / unit,
        "value": entry.value,
        "low": entry.value if entry.low is None else entry.low,
        "high": entry.value if entry.high is None else entry.high,
        "best": is_best,
        "whole": f"{show_interval(entry)} {entry.unit}",
        "bytes": f"{show_bytes(one.artefact.bytes)}, {100 * one.share:.1f} % of the original",
        "n": describe_samples([entry]).removeprefix("n = "),
    }


def _unit(nbytes: float) -> tuple[float, str]:
    return (1e9, "GB") if nbytes >= 2e9 else (1e6, "MB")


def _chart(
    rows: Sequence[Mapping[str, Any]], title: str, subjects: Sequence[Subject]
) -> dict[str, Any]:
    import altair as alt

    original = subjects[0].results.report.original_bytes
    unit, unit_name = _unit(original)
    values = [row["value"] for row in rows] + [row["low"] for row in rows]
    scale = (
        alt.Scale(type="log", nice=True)
        if min(values) > 0 and max(values) / min(values) > _LOGARITHMIC
        else alt.Scale(zero=True, nice=True)
    )
    groups = list(dict.fromkeys(row["group"] for row in rows))
    size = alt.X(
        "size:Q",
        title=f"size in {unit_name}; dashed: the original",
        axis=alt.Axis(tickCount=8),
        scale=alt.Scale(domain=[0, original / unit * 1.04], nice=False),
    )
    lost = alt.Y("value:Q", title=title, scale=scale, axis=alt.Axis(tickCount=6))
    shape = alt.Shape("group:N", title=None, scale=alt.Scale(domain=groups))
    tips = tooltips(*_TIPS)
    base = alt.Chart(alt.NamedData(ROWS))
    best = base.transform_filter("datum.best")
    chart = alt.layer(
        alt.Chart(alt.Data(values=[{}]))
        .mark_rule(style=SOFT, strokeDash=[4, 3])
        .encode(x=alt.datum(original / unit)),
        best.mark_line(style=SOFT, interpolate="step-after", strokeWidth=1.5).encode(
            size, lost, order=alt.Order("size:Q")
        ),
        base.mark_rule(style=INK, strokeWidth=1).encode(
            size, alt.Y("low:Q", title=title, scale=scale), y2="high:Q"
        ),
        base.mark_point(style=ACCENT, filled=True, size=70, opacity=1).encode(
            size, lost, shape, tooltip=tips
        ),
        best.mark_text(style=HALO, align="right", dx=-8, dy=11, strokeWidth=3, fontSize=11).encode(
            size, lost, text="label:N"
        ),
        best.mark_text(style=INK, align="right", dx=-8, dy=11, fontSize=11).encode(
            size, lost, text="label:N"
        ),
    )
    return specification(chart, rows, _HEIGHT)


_TIPS = (("label", "artefact"), ("bytes", "size"), ("whole", "divergence"), ("n", "samples"))


def _table(measured: Sequence[Subject], best: Sequence[str]) -> Table:
    metrics = summary_metrics()
    rows = tuple(
        (
            one.label,
            show_bytes(one.artefact.bytes),
            f"{100 * one.share:.1f} %",
            *(show_interval(one.artefact.value(metric.name)) for metric in metrics),
            "yes" if one.label in best else "",
        )
        for one in sorted(measured, key=lambda one: -one.artefact.bytes)
    )
    titles = tuple(metric.title for metric in metrics)
    columns = ("artefact", "size", "of the original", *titles, "no smaller one matches it")
    return Table(columns, rows, frozenset(range(1, len(columns) - 1)))
