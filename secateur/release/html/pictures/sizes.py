"""Size before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secateur.release.html.picture import ROWS, Picture, Table, specification, tooltips
from secateur.release.html.subjects import Subject
from secateur.release.html.theme import ACCENT, HOLLOW, MUTED
from secateur.system.sizes import show_bytes

_LINE = 22
ORIGINAL = "the original"


def draw_sizes(subjects: Sequence[Subject]) -> Picture:
    """A bar for the original and for every artefact."""
    original = subjects[0].results.report.original_bytes
    sizes = [
        (ORIGINAL, original),
        *((one.label, one.artefact.bytes) for one in sorted(subjects, key=_largest_first)),
    ]
    smallest = sizes[-1]
    return Picture(
        name="sizes",
        title="Size before and after",
        label=f"Bytes of weights. The original has {show_bytes(original)}, the smallest of "
        f"{len(subjects)} artefacts, {smallest[0]}, {show_bytes(smallest[1])}: "
        f"{100 * smallest[1] / original:.1f} % of it.",
        sample=f"n = {len(subjects)} artefacts; sizes are counted, not estimated",
        spec=_chart(sizes, original),
        table=Table(
            ("artefact", "bytes", "size", "of the original"),
            tuple(
                (label, f"{size:,}", show_bytes(size), f"{100 * size / original:.1f} %")
                for label, size in sizes
            ),
            frozenset({1, 2, 3}),
        ),
    )


def _largest_first(one: Subject) -> tuple[int, str]:
    return -one.artefact.bytes, one.label


def _chart(sizes: Sequence[tuple[str, int]], original: int) -> dict[str, Any]:
    import altair as alt

    unit, name = (1e9, "GB") if original >= 2e9 else (1e6, "MB")
    rows = [
        {
            "label": label,
            "size": size / unit,
            "shown": f"{100 * size / original:.1f} %",
            "whole": show_bytes(size),
            "original": label == ORIGINAL,
        }
        for label, size in sizes
    ]
    largest = max(size for _, size in sizes) / unit
    place = alt.Y(
        "label:N",
        title=None,
        scale=alt.Scale(domain=[label for label, _ in sizes]),
        axis=alt.Axis(
            labelLimit=170, labelOverlap=False, domain=False, ticks=False, labelPadding=6
        ),
    )
    amount = alt.X(
        "size:Q",
        title=f"size in {name}",
        axis=alt.Axis(tickCount=6),
        scale=alt.Scale(domain=[0, largest * 1.22], nice=False),
    )
    tips = tooltips(("label", "artefact"), ("whole", "size"), ("shown", "of the original"))
    base = alt.Chart(alt.NamedData(ROWS)).encode(y=place)
    height = alt.RelativeBandSize(band=0.62)
    chart = alt.layer(
        base.transform_filter("!datum.original").mark_bar(style=ACCENT, height=height)
        .encode(x=amount, tooltip=tips),
        base.transform_filter("datum.original")
        .mark_bar(style=HOLLOW, strokeDash=[4, 3], height=height)
        .encode(x=amount, tooltip=tips),
        base.mark_text(style=MUTED, align="left", dx=6, fontSize=10.5)
        .encode(x=amount, text="shown:N"),
    )  # fmt: skip
    return specification(chart, rows, _LINE * len(rows))
