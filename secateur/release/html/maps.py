"""Maps of experts: a cell for each expert of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.release.expert_facts import ExpertFacts
from secateur.release.html.picture import ROWS, specification, tooltips
from secateur.release.html.theme import CELL, HALO, INK

CELL_WIDTH = 9
"""Pixels of a cell at least: a narrow screen scrolls a map of many experts."""
_CELL_HEIGHT = 16

_TIPS = (
    ("layer", "layer"), ("expert", "expert"), ("what", "what became of it"), ("score", "score"),
    ("tokens", "tokens"), ("mostly", "most used by"),
)  # fmt: skip


def draw_map(
    experts: ExpertFacts, rows: Sequence[Mapping[str, Any]], title: str, marked: str = "dropped"
) -> dict[str, Any]:
    """The specification: cells by `amount`, those where `marked` is true struck through."""
    import altair as alt

    layers, count = experts.kept.shape
    across = alt.X(
        "expert:O",
        title="expert",
        axis=alt.Axis(labelAngle=0, values=list(range(0, count, 4 if count <= 64 else 8))),
    )
    down = alt.Y("layer:O", title="layer", axis=alt.Axis(labelOverlap="parity"))
    colour = alt.Color("amount:Q", title=title, legend=alt.Legend(gradientLength=160))
    tips = tooltips(*(tip for tip in _TIPS if tip[0] in rows[0]))
    base = alt.Chart(alt.NamedData(ROWS))
    struck = base.transform_filter(f"datum.{marked}")
    corners = {
        "x": alt.X("expert:O", bandPosition=0.12),
        "x2": alt.X2("expert", bandPosition=0.88),
        "y": alt.Y("layer:O", bandPosition=0.88),
        "y2": alt.Y2("layer", bandPosition=0.12),
    }
    chart = alt.layer(
        base.mark_rect(style=CELL, strokeWidth=0.6, aria=False).encode(
            across, down, colour, tooltip=tips
        ),
        struck.mark_rule(style=HALO, strokeWidth=3.5, aria=False).encode(**corners),
        struck.mark_rule(style=INK, strokeWidth=1.6, aria=False).encode(**corners),
    )
    return specification(chart, rows, max(_CELL_HEIGHT, 120 // layers) * layers)
