"""Which experts were kept and which dropped, with what they were chosen by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.release.expert_facts import ExpertFacts
from secateur.release.html.maps import CELL_WIDTH, draw_map
from secateur.release.html.picture import Picture, Table, show_number
from secateur.release.report import show_ranges


def draw_experts(experts: ExpertFacts) -> Picture | None:
    """None where all experts were kept and nothing is known of them."""
    kept, scores = experts.kept, experts.scores
    dropped = int((~kept).sum())
    if not dropped and scores is None:
        return None
    layers, count = kept.shape
    about = "Each column is an expert, each row a layer; dropped experts are struck through."
    if scores is not None:
        about += (
            f" The shade is an expert's place in its layer by {scores.criterion} "
            f"({scores.unit}), from 0 for the lowest score to 1 for the highest."
        )
    return Picture(
        name="experts",
        title="Experts kept and dropped",
        label=f"{dropped} of {layers * count} experts were dropped: "
        f"{_each(kept)} of {count} in each of {layers} layers. The table lists them.",
        sample=f"n = {layers} layers of {count} experts",
        about=about,
        spec=draw_map(experts, _rows(experts), "place in its layer, 1 is the highest"),
        table=_table(experts),
        least_width=CELL_WIDTH * count,
    )


def _each(kept: NDArray[np.bool_]) -> str:
    gone = sorted({int(number) for number in (~kept).sum(1)})
    return str(gone[0]) if len(gone) == 1 else f"{gone[0]} to {gone[-1]}"


def places(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 [L, E]: the place of each score within its layer, from 0 for the lowest to 1; equal
    scores share one."""
    from scipy.stats import rankdata

    ranks = np.array([rankdata(layer) for layer in scores])
    return np.asarray((ranks - 1) / max(1, scores.shape[-1] - 1))


def _rows(experts: ExpertFacts) -> list[dict[str, Any]]:
    scores, load = experts.scores, experts.load
    place = None if scores is None else places(scores.values)
    rows = []
    for row, layer in enumerate(experts.layers):
        for expert in range(experts.kept.shape[1]):
            kept = bool(experts.kept[row, expert])
            cell: dict[str, Any] = {
                "layer": layer,
                "expert": expert,
                "dropped": not kept,
                "what": "kept" if kept else "dropped",
                "amount": 0.0 if place is None else round(float(place[row, expert]), 4),
            }
            if scores is not None:
                cell["score"] = show_number(float(scores.values[row, expert]))
            if load is not None:
                cell["tokens"] = f"{int(load.counts[row, :, expert].sum()):,}"
                cell["mostly"] = mostly_on(experts, row, expert)
            rows.append(cell)
    return rows


def mostly_on(experts: ExpertFacts, row: int, expert: int) -> str:
    """The category that sends an expert the largest share of its own tokens: `code (41 %)`."""
    load = experts.load
    assert load is not None
    names = list(load.tokens)
    per_token = load.counts[row, :, expert] / np.maximum(list(load.tokens.values()), 1)
    if not per_token.any():
        return "nothing"
    best = int(per_token.argmax())
    return f"{names[best]} ({100 * per_token[best]:.0f} % of its tokens)"


def _table(experts: ExpertFacts) -> Table:
    columns = ["layer", "kept", "dropped", "the dropped experts"]
    rows = []
    share = None if experts.load is None else experts.load.dropped_share(experts.kept)
    for row, layer in enumerate(experts.layers):
        kept = experts.kept[row]
        gone = tuple(int(expert) for expert in np.flatnonzero(~kept))
        cells = [str(layer), str(int(kept.sum())), str(len(gone)), show_ranges(gone) or "none"]
        if experts.scores is not None:
            values = experts.scores.values[row]
            cells += [
                show_number(float(values[kept].min())),
                show_number(float(values[~kept].max())) if gone else "–",
            ]
        if share is not None:
            cells += [f"{100 * share[row].mean():.1f} %"]
        rows.append(tuple(cells))
    columns += ["lowest score kept", "highest score dropped"] if experts.scores else []
    columns += ["load of the dropped"] if share is not None else []
    return Table(tuple(columns), tuple(rows), frozenset({0, 1, 2, *range(4, len(columns))}))
