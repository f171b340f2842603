"""What `secateur plan diff` prints for people: one screen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from secateur.cli.render.table import Table
from secateur.system.sizes import show_bytes

if TYPE_CHECKING:
    from secateur.planning.diff import PlanDifference, Values

ROWS = 6
"""Rows of a table, unless all are asked for."""


def diff_lines(found: PlanDifference, names: Sequence[str], *, everything: bool) -> list[Any]:
    """Tables of what differs: files, types, experts, sources; then what only one plan notes."""
    if found.same:
        return ["the plans are the same"]
    lines: list[Any] = [f"first: {names[0]}, second: {names[1]}"]
    most = None if everything else ROWS

    def add(title: str, head: list[str], rows: list[list[str]], align: str) -> None:
        if rows:
            left = len(rows) - len(rows[:most])
            lines.append(f"{title}{f' ({left} more with -v)' if left else ''}:")
            lines.append(Table(head, rows[:most], align))

    sides = ["first", "second"]
    files = [
        [row.format, *map(_size, row.bytes), _change(row.bytes), *map(_bits, row.bits_per_weight)]
        for row in found.files
    ]
    add("files", ["format", *sides, "change", "bits/weight", "second"], files, "l")
    types = [
        [row.format, row.name, *map(_types, row.types), _change(row.bytes)]
        for row in sorted(found.types, key=lambda row: -abs(row.bytes.second - row.bytes.first))
    ]
    add("tensors, by types and bytes", ["format", "tensors", *sides, "change"], types, "llll")
    layers = [
        [str(layer), _numbers(only.only_first), _numbers(only.only_second)]
        for layer, only in found.layers.items()
    ]
    kept = f"experts kept, {found.experts.first} and {found.experts.second} in each layer"
    add(kept, ["layer", "only in first", "only in second"], layers, "rll")
    sources = [[key, *map(_short, values)] for key, values in found.sources.items()]
    add("made from", ["key", *sides], sources, "lll")
    for side, edits in zip(sides, found.edits, strict=True):
        lines += [f"edited by hand in {side}: {text}" for text in edits]
    notes = [
        f"only in {side}: {note}"
        for side, texts in zip(sides, found.notes, strict=True)
        for note in texts
    ]
    if notes and not everything:
        return [*lines, f"{len(notes)} notes that only one of them has (-v)"]
    return lines + notes


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "-" if value is None else text
    return text if len(text) <= 24 else f"{text[:21]}..."


def _numbers(numbers: Sequence[int]) -> str:
    """Numbers in a line, cut where they are many."""
    shown = ", ".join(map(str, numbers[:8]))
    return f"{shown}, ... ({len(numbers)})" if len(numbers) > 8 else shown or "-"


def _types(counts: Mapping[str, int]) -> str:
    found = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {name}" for name, count in found) or "-"


def _size(nbytes: int | None) -> str:
    return "-" if nbytes is None else show_bytes(nbytes)


def _bits(bits: float | None) -> str:
    return "-" if bits is None else f"{bits:.3f}"


def _change(sizes: Values) -> str:
    if sizes.first is None or sizes.second is None:
        return "-"
    change = sizes.second - sizes.first
    return f"{'-' if change < 0 else '+'}{show_bytes(abs(change))}" if change else "0"
