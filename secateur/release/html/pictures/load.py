"""How the load was spread over the experts in calibration, and who saw too little to be judged."""

from __future__ import annotations

from typing import Any

import numpy as np

from secateur.release.expert_facts import ExpertFacts
from secateur.release.html.maps import CELL_WIDTH, draw_map
from secateur.release.html.picture import Picture, Table
from secateur.release.html.pictures.experts import mostly_on
from secateur.statistics.coverage import LEAST


def draw_load(experts: ExpertFacts) -> Picture | None:
    """None where the output keeps no statistics."""
    load = experts.load
    if load is None:
        return None
    total = load.counts.sum(1)
    few = int((total < LEAST).sum())
    tokens = sum(load.tokens.values())
    rows = _rows(experts)
    return Picture(
        name="load",
        title="Load of the experts in calibration",
        label=f"How many tokens each of {total.size} experts worked on, of {tokens:,}: from "
        f"{int(total.min()):,} to {int(total.max()):,}. {few} experts saw fewer than {LEAST}.",
        sample=f"n = {tokens:,} tokens, each sent to {load.top_k} experts of a layer",
        about="0 is as much as all experts would have if the load were even; each step doubles it. "
        + (
            f"{few} experts are struck through: they saw fewer than {LEAST} tokens, too few to "
            "judge them by."
            if few
            else f"All experts saw at least {LEAST} tokens, so none is struck through."
        ),
        spec=draw_map(experts, rows, "load, doublings of an even one", marked="few"),
        table=_table(experts),
        least_width=CELL_WIDTH * total.shape[1],
    )


def _rows(experts: ExpertFacts) -> list[dict[str, Any]]:
    load = experts.load
    assert load is not None
    total, relative = load.counts.sum(1), load.relative
    floor = 1 / 64
    return [
        {
            "layer": layer,
            "expert": expert,
            "what": "kept" if experts.kept[row, expert] else "dropped",
            "amount": round(float(np.log2(max(relative[row, expert], floor))), 3),
            "few": bool(total[row, expert] < LEAST),
            "tokens": f"{int(total[row, expert]):,}",
            "mostly": mostly_on(experts, row, expert),
        }
        for row, layer in enumerate(experts.layers)
        for expert in range(total.shape[1])
    ]


def _table(experts: ExpertFacts) -> Table:
    load = experts.load
    assert load is not None
    total, relative = load.counts.sum(1), load.relative
    rows = tuple(
        (
            str(layer),
            f"{int(total[row].min()):,}",
            f"{int(np.median(total[row])):,}",
            f"{int(total[row].max()):,}",
            f"{relative[row].max():.2f}",
            str(int((total[row] < LEAST).sum())),
        )
        for row, layer in enumerate(experts.layers)
    )
    columns = (
        "layer",
        "least tokens",
        "median",
        "most tokens",
        "most, of an even load",
        f"fewer than {LEAST}",
    )
    return Table(columns, rows, frozenset(range(6)))
