"""The chart of sizes against divergence, with the floor.

Artefacts are numbered by size, and the legend says which is which: names would not fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.evaluation.measurement import Measurement
from secateur.release.html.label_places import LINE, Box, Column, Scale, place_labels
from secateur.release.html.picture import (
    ROWS,
    describe_samples,
    show_interval,
    show_number,
    specification,
    tooltips,
)
from secateur.release.html.subjects import Subject
from secateur.release.html.theme import ACCENT, HALO, HOLLOW, INK, MUTED, SOFT
from secateur.release.report import summary_metrics
from secateur.system.sizes import show_bytes

_HEIGHT = 360
_NARROWEST = 285
"""Pixels between the axis and the right end on a phone."""
_LOGARITHMIC = 20
"""Largest over smallest divergence from which on the axis is logarithmic."""
_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
_CHARACTER = 5.6
"""Pixels of a character of the floor's label, on average."""
_TIPS = (("label", "artefact"), ("bytes", "size"), ("whole", "divergence"), ("n", "samples"))


def draw_chart(
    measured: Sequence[Subject], best: Sequence[str], floor: Measurement | None
) -> dict[str, Any]:
    """The specification: artefacts by size, `best` the labels of those that no smaller one matches,
    `floor` the original's own number in another kernel."""
    import altair as alt

    metric = summary_metrics()[0]
    axes = _axes(measured, floor)
    rows = _rows(measured, best, axes)
    size = alt.X(
        "size:Q",
        title=f"size in {axes.unit_name}, logarithmic; dashed: the original",
        axis=alt.Axis(tickCount=8, format="~g"),
        scale=_scale(axes.size),
    )
    lost = alt.Y("value:Q", title=f"{metric.title} ({metric.unit})", scale=_scale(axes.lost),
                 axis=alt.Axis(tickCount=6, format="~g"))  # fmt: skip
    base = alt.Chart(alt.NamedData(ROWS))
    chart = alt.layer(
        *_floor_layers(axes),
        alt.Chart(alt.Data(values=[{}]))
        .mark_rule(style=SOFT, strokeDash=[4, 3])
        .encode(x=alt.datum(_original(measured) / axes.unit)),
        base.transform_filter("datum.best")
        .mark_line(style=SOFT, interpolate="step-after", strokeWidth=1.5)
        .encode(size, lost, order=alt.Order("size:Q")),
        base.mark_rule(style=SOFT, strokeWidth=1).encode(size, y="place:Q", y2="end:Q"),
        base.mark_rule(style=INK, strokeWidth=1).encode(size, y="low:Q", y2="high:Q"),
        *_points(base, size, lost, rows, _shapes(measured)),
        base.mark_text(style=HALO, strokeWidth=3, fontSize=11, fontWeight="bold").encode(
            size, y="place:Q", text="number:N"
        ),
        base.mark_text(style=INK, fontSize=11, fontWeight="bold").encode(
            size, y="place:Q", text="number:N"
        ),
    )
    return specification(chart, rows, _HEIGHT)


def summary_entry(subject: Subject) -> Measurement:
    """The number of a measured artefact that counts first."""
    entry = subject.artefact.value(summary_metrics()[0].name)
    assert entry is not None
    return entry


def _ends(entry: Measurement) -> tuple[float, float]:
    """Its interval; without one the value twice."""
    if entry.low is None or entry.high is None:
        return entry.value, entry.value
    return entry.low, entry.high


@dataclass(frozen=True)
class _Axes:
    """The scales of a chart, sizes in units of `unit` bytes, and the name of the floor's line."""

    size: Scale
    lost: Scale
    unit: float
    unit_name: str
    floor: float | None
    floor_text: str

    @property
    def below(self) -> bool:
        """Whether there is room for the floor's label under its line."""
        return self.floor is not None and self.lost.share(self.floor) * _HEIGHT > LINE + 6

    def pixel(self, value: float) -> float:
        """Pixels from the top."""
        return _HEIGHT * (1 - self.lost.share(value))

    def floor_boxes(self) -> list[Box]:
        """Where the floor's label stands."""
        if self.floor is None:
            return []
        line = self.pixel(self.floor)
        top = line + 2 if self.below else line - LINE - 4
        return [Box(0, top, len(self.floor_text) * _CHARACTER, top + LINE + 2)]


def _axes(measured: Sequence[Subject], floor: Measurement | None) -> _Axes:
    original = max(one.results.report.original_bytes for one in measured)
    unit, unit_name = (1e9, "GB") if original >= 2e9 else (1e6, "MB")
    smallest, largest = measured[0].artefact.bytes, max(original, measured[-1].artefact.bytes)
    values = [summary_entry(one).value for one in measured] + [
        _ends(summary_entry(one))[0] for one in measured
    ]
    most = max(_ends(summary_entry(one))[1] for one in measured)
    at = None if floor is None else floor.value
    logarithmic = min(values) > 0 and max(values) / min(values) > _LOGARITHMIC and at != 0
    least = min([*values, *([] if at is None else [at])])
    lost = Scale(least / 1.6, most * 1.6, True) if logarithmic else Scale(0, (most or 1) * 1.12)
    text = "" if at is None else f"floor: same weights, another kernel, {show_number(at)}"
    size = Scale(0.93 * smallest / unit, 1.05 * largest / unit, True)
    return _Axes(size, lost, unit, unit_name, at, text)


def _rows(measured: Sequence[Subject], best: Sequence[str], axes: _Axes) -> list[dict[str, Any]]:
    """A row for each artefact, with its number, and the place of that."""
    columns = [
        Column(
            _NARROWEST * axes.size.share(one.artefact.bytes / axes.unit),
            axes.pixel(max(_ends(entry)[1], entry.value)) - 5,
            axes.pixel(min(_ends(entry)[0], entry.value)) + 5,
            str(number),
        )
        for number, one in enumerate(measured, 1)
        for entry in (summary_entry(one),)
    ]
    places = place_labels(columns, _HEIGHT, axes.floor_boxes())
    rows = zip(measured, columns, places, strict=True)
    return [_row(one, column, axes.lost.value(1 - place / _HEIGHT), axes, one.label in best)
            for one, column, place in rows]  # fmt: skip


def _row(one: Subject, column: Column, place: float, axes: _Axes, is_best: bool) -> dict[str, Any]:
    entry = summary_entry(one)
    low, high = _ends(entry)
    middle = (column.top + column.bottom) / 2
    return {
        "number": column.text,
        "label": one.label,
        "key": f"{column.text} {one.label}",
        "size": one.artefact.bytes / axes.unit,
        "value": entry.value,
        "low": low,
        "high": high,
        "place": place,
        "end": high if axes.pixel(place) < middle else low,
        "best": is_best,
        "whole": f"{show_interval(entry)} {entry.unit}",
        "bytes": f"{show_bytes(one.artefact.bytes)}, {100 * one.share:.1f} % of the original",
        "n": describe_samples([entry]).removeprefix("n = "),
    }


def _scale(scale: Scale) -> Any:
    import altair as alt

    ends = [scale.low, scale.high]
    if scale.logarithmic:  # has no zero, and Vega warns of one that is left out
        return alt.Scale(type="log", domain=ends, nice=False)
    return alt.Scale(type="linear", domain=ends, nice=False, zero=False)


def _original(measured: Sequence[Subject]) -> int:
    return measured[0].results.report.original_bytes


def _shapes(measured: Sequence[Subject]) -> list[str]:
    """The shape of each: of one output by what it is for, of several by the output."""
    groups = list(dict.fromkeys(one.output or one.form for one in measured))
    return [_SHAPES[groups.index(one.output or one.form) % len(_SHAPES)] for one in measured]


def _points(
    base: Any, size: Any, lost: Any, rows: Sequence[Mapping[str, Any]], shapes: Sequence[str]
) -> list[Any]:
    """The marks, filled and hollow, with the legend that says whose number is which."""
    import altair as alt

    columns = alt.ExprRef("width > 800 ? 5 : width > 600 ? 4 : width > 420 ? 3 : 2")
    shape = alt.Shape(
        "key:N",
        title=None,
        scale=alt.Scale(domain=[row["key"] for row in rows], range=list(shapes)),
        legend=alt.Legend(
            orient="bottom", columns=columns, symbolSize=45, columnPadding=8, labelLimit=130
        ),
    )
    tips = tooltips(*_TIPS)
    return [
        base.transform_filter(f"{'' if filled else '!'}datum.best")
        .mark_point(style=style, filled=True, size=70, opacity=1, strokeWidth=1.3)
        .encode(size, lost, shape, tooltip=tips)
        for style, filled in ((ACCENT, True), (HOLLOW, False))
    ]


def _floor_layers(axes: _Axes) -> list[Any]:
    """What lies below the floor, its line, and its name."""
    import altair as alt

    if axes.floor is None:
        return []
    one = alt.Chart(alt.Data(values=[{}]))
    line = alt.YDatum(axes.floor, type="quantitative")
    dy = LINE - 2 if axes.below else -LINE / 2 - 2
    return [
        one.mark_rect(style=SOFT, opacity=0.3).encode(
            y=alt.YDatum(axes.lost.low, type="quantitative"), y2=alt.Y2Datum(axes.floor)
        ),
        one.mark_rule(style=MUTED, strokeWidth=1).encode(y=line),
        one.mark_text(style=MUTED, align="left", fontSize=10.5, dx=3, dy=dy).encode(
            x=alt.value(0), y=line, text=alt.value(axes.floor_text)
        ),
    ]
