"""What `secateur fit` prints for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from secateur.cli.render.table import Table
from secateur.system.sizes import show_bytes

if TYPE_CHECKING:
    from secateur.outputs.fit import Fit, FitRow

SHOWN = 15
"""Rows that are shown unless all are asked for."""


def fit_lines(found: Fit, *, everything: bool = False) -> list[str | Table]:
    """What fits: a row per number of experts and file type, most experts first.

    Unless `everything` is asked for, what another row surpasses in both experts and bits per
    weight comes last, and only the first SHOWN rows are there.
    """
    memory = found.memory.to_json()
    lines: list[str | Table] = [
        f"{found.source}: {len(found.rows)} of {found.tried} combinations fit in "
        f"{show_bytes(found.available)} ({found.available / 2**30:.2f} GiB) with "
        f"{memory['context']:,} tokens of context (cache {show_bytes(memory['kv_cache_bytes'])}, "
        f"logits {show_bytes(memory['logits_bytes'])})"
    ]
    rows = found.rows if everything else best_rows(found.rows, SHOWN)
    if rows:
        lines.append(_table(rows))
    if len(rows) < len(found.rows):
        lines.append(
            f"the {len(rows)} with most experts and bits per weight; --all shows {len(found.rows)}"
        )
    lines.append(f"memory counts {memory['rule']}")
    return [*lines, *(f"note: {note}" for note in found.notes)]


def best_rows(rows: Sequence[FitRow], count: int) -> list[FitRow]:
    """At most `count` rows: first those that none surpasses in experts and bits, then the next."""
    left: list[FitRow] = list(rows)
    chosen: list[FitRow] = []
    while left and len(chosen) < count:
        front = [row for row in left if not any(_surpasses(other, row) for other in left)]
        front.sort(key=lambda row: (-row.experts, -row.bits_per_weight, row.type))
        chosen += front[: count - len(chosen)]
        left = [row for row in left if row not in front]
    return sorted(chosen, key=lambda row: (-row.experts, -row.bits_per_weight, row.type))


def _surpasses(one: FitRow, other: FitRow) -> bool:
    ours, theirs = (one.experts, one.bits_per_weight), (other.experts, other.bits_per_weight)
    return ours != theirs and all(a >= b for a, b in zip(ours, theirs, strict=True))


def _table(rows: Sequence[FitRow]) -> Table:
    known = all(row.file is not None for row in rows)
    return Table(
        ["experts", "type", "bits/weight", "file" if known else "tensors", "bytes", "memory", ""],
        [
            [
                str(row.experts),
                row.type,
                f"{row.bits_per_weight:.3f}",
                show_bytes(row.weights if row.file is None else row.file),
                f"{row.weights if row.file is None else row.file:,}",
                show_bytes(row.total),
                "needs an imatrix" if row.needs_imatrix else "",
            ]
            for row in rows
        ],
        "rlrrrrl",
    )
