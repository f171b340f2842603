"""How much of each category's load the dropped experts carried in the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.release.expert_facts import ExpertFacts
from secateur.release.html.picture import ROWS, Picture, Table, specification, tooltips
from secateur.release.html.theme import ACCENT, INK, MUTED, SOFT
from secateur.system.sizes import show_count

_LINE = 24


def draw_dropped_load(experts: ExpertFacts) -> Picture | None:
    """None where nothing was dropped, or the output keeps no statistics."""
    load = experts.load
    if load is None or experts.kept.all():
        return None
    share = load.dropped_share(experts.kept)  # [L, C]
    rows = [
        {
            "category": category,
            "mean": float(share[:, number].mean()),
            "low": float(share[:, number].min()),
            "high": float(share[:, number].max()),
            "shown": f"{100 * share[:, number].mean():.1f} %",
            "tokens": f"{load.tokens[category]:,}",
        }
        for number, category in enumerate(load.tokens)
    ]
    rows.sort(key=lambda row: (-float(str(row["mean"])), str(row["category"])))
    even = float((~experts.kept).mean())
    worst = rows[0]
    return Picture(
        name="dropped-load",
        title="What the dropped experts did before",
        label=f"Share of each category's load that went to experts that were dropped. They are "
        f"{100 * even:.1f} % of the experts; {worst['category']} gave them most, {worst['shown']}.",
        sample=f"n = {sum(load.tokens.values()):,} tokens of "
        f"{show_count(len(rows), 'category', 'categories')}, "
        f"{show_count(len(experts.layers), 'layer')}",
        about="Points are means over the layers, bars reach from the least to the most of a layer. "
        "The dashed line is the share of experts that were dropped: an even load.",
        spec=_chart(rows, even),
        table=Table(
            ("category", "tokens", "mean over layers", "least layer", "most layer"),
            tuple(
                (
                    str(row["category"]),
                    str(row["tokens"]),
                    str(row["shown"]),
                    f"{100 * float(str(row['low'])):.1f} %",
                    f"{100 * float(str(row['high'])):.1f} %",
                )
                for row in rows
            ),
            frozenset(range(1, 5)),
        ),
    )


def _chart(rows: Sequence[Mapping[str, Any]], even: float) -> dict[str, Any]:
    import altair as alt

    most = max(even, *(float(row["high"]) for row in rows))
    amount = alt.X(
        "low:Q",
        title="share of the category's load",
        axis=alt.Axis(format=".0%", tickCount=6),
        scale=alt.Scale(domain=[0, most * 1.18]),
    )
    place = alt.Y(
        "category:N",
        sort=None,
        title=None,
        axis=alt.Axis(labelOverlap=False, domain=False, ticks=False, labelPadding=6),
    )
    tips = tooltips(("category", "category"), ("shown", "mean over layers"), ("tokens", "tokens"))
    base = alt.Chart(alt.NamedData(ROWS))
    chart = alt.layer(
        alt.Chart(alt.Data(values=[{}]))
        .mark_rule(style=SOFT, strokeDash=[4, 3])
        .encode(x=alt.datum(even)),
        base.mark_rule(style=INK, strokeWidth=1.5).encode(amount, place, x2="high:Q", tooltip=tips),
        base.mark_point(style=ACCENT, filled=True, size=60, opacity=1).encode(
            alt.X("mean:Q"), place, tooltip=tips
        ),
        base.mark_text(style=MUTED, align="left", dx=7, fontSize=10.5).encode(
            alt.X("high:Q"), place, text="shown:N"
        ),
    )
    return specification(chart, rows, _LINE * len(rows))
