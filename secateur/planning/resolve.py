"""Making a plan: from the experts that stay and the formats wanted to every tensor's fate.

Everything is known from headers: names, shapes, exact sizes of the files. Nothing is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.apply.experts import select_experts
from secateur.checkpoint.reader import Checkpoint
from secateur.checkpoint.writer import Layout, lay_out
from secateur.planning.plan import SAFETENSORS, Plan, PlannedTensor
from secateur.planning.selection import Keep


def safetensors_layout(checkpoint: Checkpoint, keep: Keep) -> Layout:
    """The shards of the pruned checkpoint, to the byte."""
    return lay_out(select_experts(checkpoint, keep))


def plan_safetensors(
    checkpoint: Checkpoint, keep: Keep
) -> tuple[tuple[PlannedTensor, ...], dict[str, int]]:
    """(tensors, {file: bytes}) of the pruned checkpoint."""
    layout = safetensors_layout(checkpoint, keep)
    sources = _sources(checkpoint, keep)
    tensors = []
    for shard in layout.shards:
        for tensor in shard.tensors:
            source = sources[tensor.name]
            same = checkpoint.specs[source].shape == tensor.shape
            tensors.append(
                PlannedTensor(
                    format=SAFETENSORS,
                    name=tensor.name,
                    action="copy" if same else "select",
                    sources=(source,),
                    type=tensor.dtype,
                    shape=tensor.shape,
                    bytes=tensor.nbytes,
                )
            )
    return tuple(tensors), dict(layout.files)


def _sources(checkpoint: Checkpoint, keep: Keep) -> dict[str, str]:
    """Output name -> source name; they differ where per-expert names are renumbered."""
    sources = {}
    for name, place in checkpoint.places.items():
        if place.expert is None or place.layer is None:
            sources[name] = name
        elif place.expert in keep[place.layer]:
            match = place.row.pattern.fullmatch(name)
            assert match is not None  # the place was found with this very pattern
            start, end = match.span("expert")
            number = keep[place.layer].index(place.expert)
            sources[f"{name[:start]}{number}{name[end:]}"] = name
    return sources


def make_plan(
    checkpoint: Checkpoint,
    keep: Keep,
    selection: Mapping[str, Any],
    model: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> Plan:
    """The plan for the pruned checkpoint as safetensors."""
    tensors, files = plan_safetensors(checkpoint, keep)
    return Plan(model, selection, dict(keep), tensors, {SAFETENSORS: files}, tuple(notes))
