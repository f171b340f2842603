"""What `secateur inspect` prints for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.system.sizes import show_bytes

if TYPE_CHECKING:
    from secateur.checkpoint.inspection import Inspection

_SHARES = (0.125, 0.25, 0.375, 0.5)
"""Shares of the experts to drop, for which a model's size is shown."""


def inspection_lines(found: Inspection) -> list[str]:
    """A model at a glance, and what it would be with fewer experts."""
    lines = [
        f"{found.source}: {found.family}",
        f"  {found.layers} layers, {found.moe_layers} with {found.experts} routed experts, "
        f"{found.top_k} per token",
        f"  {found.parameters / 1e6:,.2f} M parameters, {found.active / 1e6:,.2f} M active per "
        f"token, {found.tensors} tensors, {show_bytes(found.bytes)}",
    ]
    if found.revision:
        lines.append(f"  revision {found.revision}")
    lines += [
        f"  {name}: {part.tensors} tensors, {part.parameters / 1e6:,.2f} M parameters, "
        f"{show_bytes(part.bytes)}"
        for name, part in found.parts.items()
    ]
    lines.append("  with fewer experts:")
    for share in _SHARES:
        kept = found.experts - int(found.experts * share)
        if kept >= found.top_k:
            parameters, nbytes = found.with_experts(kept)
            lines.append(
                f"    --experts {kept} (drop {share:.1%}): {parameters / 1e6:,.2f} M parameters, "
                f"{show_bytes(nbytes)}"
            )
    return [*lines, *(f"  note: {note}" for note in found.notes)]
