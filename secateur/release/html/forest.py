"""Numbers with their intervals, one a line under headings: a forest plot.

Every line is labelled, so that it needs neither a legend nor colours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.evaluation.measurement import Measurement
from secateur.release.html.picture import (
    ROWS,
    describe_samples,
    show_interval,
    show_number,
    specification,
    tooltips,
)
from secateur.release.html.theme import ACCENT, HOLLOW, INK, MUTED, SOFT

LINE = 19
"""Pixels of a line."""


@dataclass(frozen=True)
class Line:
    """A number under the heading `group` (none: ""), called `label`; `is_original` is hollow."""

    group: str
    label: str
    entry: Measurement
    is_original: bool = False


def draw_forest(
    lines: Sequence[Line], title: str, *, no_change: float | None = None
) -> dict[str, Any]:
    """The specification; `title` names the axis, a dashed line marks `no_change`."""
    import altair as alt

    rows, labels, heads = _rows(lines)
    place = alt.Y(
        "row:O",
        title=None,
        scale=alt.Scale(domain=list(range(len(labels)))),
        axis=alt.Axis(
            labelExpr=f"{json.dumps(labels)}[datum.value]",
            labelFontWeight=alt.condition(
                f"indexof({heads}, datum.value) >= 0", alt.value("bold"), alt.value("normal")
            ),
            labelLimit=170,
            labelOverlap=False,
            domain=False,
            ticks=False,
            labelPadding=6,
        ),
    )
    amount = alt.X(
        "low:Q",
        title=title,
        axis=alt.Axis(tickCount=6),
        scale=alt.Scale(domain=_domain(rows), nice=False),
    )
    tips = tooltips(*_TIPS)
    base = alt.Chart(alt.NamedData(ROWS)).transform_filter("isValid(datum.value)")
    layers = [
        base.mark_rule(style=INK, strokeWidth=1.5).encode(amount, place, x2="high:Q", tooltip=tips),
        base.transform_filter("!datum.original")
        .mark_point(style=ACCENT, size=46, filled=True, opacity=1)
        .encode(alt.X("value:Q"), place, tooltip=tips),
        base.transform_filter("datum.original")
        .mark_point(style=HOLLOW, size=46, filled=True, opacity=1, strokeWidth=1.5)
        .encode(alt.X("value:Q"), place, tooltip=tips),
        base.mark_text(style=MUTED, align="left", dx=7, fontSize=10.5).encode(
            alt.X("high:Q"), place, text="shown:N"
        ),
    ]
    if no_change is not None:
        layers.insert(
            0,
            alt.Chart(alt.Data(values=[{}]))
            .mark_rule(style=SOFT, strokeDash=[4, 3])
            .encode(x=alt.datum(no_change)),
        )
    chart = alt.layer(*layers)
    return specification(chart, rows, LINE * len(labels))


def _domain(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """From all intervals and zero, with room for the last number at the right end."""
    low = min(0.0, *(row["low"] for row in rows))
    high = max(0.0, *(row["high"] for row in rows))
    return [low, high + 0.22 * ((high - low) or 1.0)]


_TIPS = (("group", "of"), ("label", "artefact"), ("whole", "value"), ("n", "samples"))


def _rows(lines: Sequence[Line]) -> tuple[list[dict[str, Any]], list[str], list[int]]:
    """(rows of data, the label of each place on the axis, the places that are headings)"""
    rows: list[dict[str, Any]] = []
    labels: list[str] = []
    heads: list[int] = []
    for number, line in enumerate(lines):
        if line.group and (number == 0 or lines[number - 1].group != line.group):
            heads.append(len(labels))
            labels.append(line.group)
        entry = line.entry
        low, high = (entry.value, entry.value) if entry.low is None else (entry.low, entry.high)
        rows.append(
            {
                "row": len(labels),
                "group": line.group,
                "label": line.label,
                "value": entry.value,
                "low": low,
                "high": high,
                "shown": show_number(entry.value),
                "whole": f"{show_interval(entry)} {entry.unit}",
                "n": describe_samples([entry]).removeprefix("n = "),
                "original": line.is_original,
            }
        )
        labels.append(line.label)
    return rows, labels, heads
