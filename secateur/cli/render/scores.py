"""What `secateur scores` prints for people."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from statistics import median

from secateur.cli.render.table import Table

Layers = Mapping[str, Sequence[float]]

_RANKED = 14
"""Columns of `117 0.00123` and the blanks after it."""


def overview_lines(head: str, layers: Layers) -> list[str | Table]:
    """A row per layer: its median, and the experts with the highest and the lowest scores."""
    ends = max(2, min(5, (shutil.get_terminal_size().columns - 24) // (2 * _RANKED)))
    ends = min(ends, min(map(len, layers.values())) // 2)
    rows = []
    for layer, scores in layers.items():
        ranked = rank(scores)
        shown = _cells(scores, [*ranked[:ends], *ranked[-ends:]])
        rows.append([layer, show_score(median(scores)), *shown])
    names = ["highest", *[""] * (ends - 1), "lowest", *[""] * (ends - 1)]
    return [
        head,
        Table(["layer", "median", *names], rows, "rr" + "l" * 2 * ends),
        "a cell is an expert and its score; --layer N or --all shows all experts",
    ]


def layer_lines(head: str, layers: Layers) -> list[str | Table]:
    """All experts of every layer, from the highest score to the lowest, column after column."""
    lines: list[str | Table] = [head]
    columns = max(1, (shutil.get_terminal_size().columns - 2) // (_RANKED + 6))
    for layer, scores in layers.items():
        ranked = rank(scores)
        height = -(-len(ranked) // columns)
        cells = [
            ["", "", ""] if place >= len(ranked) else
            [f"{place + 1}.", str(ranked[place]), show_score(scores[ranked[place]])]
            for place in range(height * columns)
        ]  # fmt: skip
        rows = [
            [cell for column in range(columns) for cell in cells[row + column * height]]
            for row in range(height)
        ]
        lines += [f"layer {layer}", Table(["", "expert", "score"] * columns, rows, "r")]
    return lines


def rank(scores: Sequence[float]) -> list[int]:
    """The experts from the highest score to the lowest; of equal ones the lower number first."""
    return sorted(range(len(scores)), key=lambda expert: -scores[expert])


def show_score(score: float) -> str:
    """Three digits, or a whole number with commas."""
    return f"{score:,.0f}" if abs(score) >= 1000 else f"{score:.3g}"


def _cells(scores: Sequence[float], experts: Sequence[int]) -> list[str]:
    return [f"{expert:>3} {show_score(scores[expert])}" for expert in experts]
