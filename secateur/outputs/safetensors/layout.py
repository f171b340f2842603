"""The pruned checkpoint, decided: its shards to the byte, and the source of every tensor."""

from __future__ import annotations

from secateur.checkpoint.reader import Checkpoint
from secateur.checkpoint.writer import Layout, lay_out
from secateur.planning.document import PlannedTensor
from secateur.pruning.expert_slices import select_experts
from secateur.pruning.selection import Keep


def safetensors_layout(checkpoint: Checkpoint, keep: Keep) -> Layout:
    """The shards of the pruned checkpoint, to the byte."""
    return lay_out(select_experts(checkpoint, keep))


def planned_tensors(
    checkpoint: Checkpoint, keep: Keep, layout: Layout, format_id: str
) -> tuple[PlannedTensor, ...]:
    """The plan's rows for the tensors of a layout, in the order of writing."""
    sources = _source_names(checkpoint, keep)
    return tuple(
        PlannedTensor(
            format=format_id,
            name=tensor.name,
            action="copy"
            if checkpoint.specs[sources[tensor.name]].shape == tensor.shape
            else "select",
            sources=(sources[tensor.name],),
            type=tensor.dtype,
            shape=tensor.shape,
            bytes=tensor.nbytes,
        )
        for shard in layout.shards
        for tensor in shard.tensors
    )


def _source_names(checkpoint: Checkpoint, keep: Keep) -> dict[str, str]:
    """Output name -> source name; they differ where per-expert names are renumbered."""
    sources = {}
    for name, match in checkpoint.matches.items():
        if match.expert is None or match.layer is None:
            sources[name] = name
        elif match.expert in keep[match.layer]:
            found = match.row.pattern.fullmatch(name)
            assert found is not None  # the row was found with this very pattern
            start, end = found.span("expert")
            number = keep[match.layer].index(match.expert)
            sources[f"{name[:start]}{number}{name[end:]}"] = name
    return sources
