"""What `secateur inspect` prints for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.cli.render.table import Table
from secateur.system.sizes import show_bytes

if TYPE_CHECKING:
    from secateur.checkpoint.inspection import Inspection


def inspection_lines(found: Inspection) -> list[str | Table]:
    """A model at a glance, its parts, and what it would be with fewer experts."""
    lines: list[str | Table] = [
        f"{found.source}: {found.family}",
        f"  {found.layers} layers, {found.moe_layers} with {found.experts} routed experts, "
        f"{found.top_k} per token",
        f"  {_millions(found.parameters)} parameters, {_millions(found.active)} active per "
        f"token, {found.tensors} tensors, {show_bytes(found.bytes)}",
    ]
    if found.revision:
        lines.append(f"  revision {found.revision}")
    lines.append(
        Table(
            ["part", "tensors", "parameters", "size"],
            [
                [name, str(part.tensors), _millions(part.parameters), show_bytes(part.bytes)]
                for name, part in found.parts.items()
            ],
        )
    )
    if found.sizes:
        lines += ["with fewer experts, in the types it has now:", _sizes(found)]
    return [*lines, *(f"note: {note}" for note in found.notes)]


def _sizes(found: Inspection) -> Table:
    context = next((size.context for size in found.sizes if size.context is not None), None)
    known = context is not None
    head = ["--experts", "dropped", "parameters", "size", "bytes", "of now"]
    rows = [
        [
            str(size.experts),
            f"{1 - size.experts / found.experts:.1%}",
            _millions(size.parameters),
            show_bytes(size.bytes),
            f"{size.bytes:,}",
            f"{size.bytes / found.bytes:.1%}",
            *([show_bytes(size.memory)] if size.memory is not None else []),
        ]
        for size in found.sizes
    ]
    return Table(head + [f"memory, {context:,} tokens"] * known, rows, "r")


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:,.2f} M"
