"""Selecting experts: which bytes of a checkpoint a pruned one is made of.

Everything follows from the family's rows. A tensor with an expert axis keeps the chosen slices
of it; a tensor with the expert's number in its name is left out or renumbered; every other one
is copied whole. No bytes are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from secateur.checkpoint.byte_ranges import Allowed, Piece, SlicedTensor, joined, whole
from secateur.checkpoint.headers import TensorSpec
from secateur.checkpoint.reader import Checkpoint
from secateur.checkpoint.tensors import STORAGE
from secateur.errors import PlanError
from secateur.families.schema import TensorMatch
from secateur.pruning.selection import Constraints, Keep, check_count, router_constraints


def select_experts(checkpoint: Checkpoint, keep: Keep) -> Iterator[SlicedTensor]:
    """The tensors of the pruned checkpoint, as byte ranges of the source.

    `keep` lists, ascending, the experts of every MoE layer that are kept; they are renumbered from
    0 in that order. Raises PlanError when `keep` does not fit the checkpoint (`check_keep`).
    Peak memory: the descriptions; one piece per run of neighbouring kept experts.
    """
    check_keep(checkpoint, keep)
    return arrange_experts(checkpoint, keep)


def arrange_experts(checkpoint: Checkpoint, order: Keep) -> Iterator[SlicedTensor]:
    """As `select_experts`, in any order of experts, and without any check of `order`."""
    for name, spec in checkpoint.specs.items():
        match = checkpoint.matches[name]
        axis = match.row.expert_axis
        if match.layer is None or (axis is None and match.expert is None):
            yield whole(spec, _allowed(match))
            continue
        kept = order[match.layer]
        if axis is not None:
            yield _slice(spec, axis, kept)
        elif match.expert is not None and match.expert in kept:
            yield _rename(spec, match, kept.index(match.expert))


def check_keep(checkpoint: Checkpoint, keep: Keep) -> None:
    """Raise PlanError unless `keep` gives a checkpoint that its own config can describe.

    Every MoE layer is there, with its experts ascending; all keep the same number, since
    config.json holds one count; that number is at least top_k; where the router works in groups,
    every group keeps equally many, and the groups a token may use still hold top_k experts.
    """
    layers = checkpoint.moe_layers
    if missing := sorted(set(layers) ^ set(keep)):
        what = "is missing" if missing[0] in layers else "has no routed experts"
        raise PlanError(
            f"the experts to keep do not fit the model: layer {missing[0]} {what} "
            f"({len(missing)} such layers; MoE layers are {_ranges(layers)})"
        )
    experts = checkpoint.experts
    for layer in layers:
        kept = list(keep[layer])
        if len(set(kept)) != len(kept):
            twice = next(expert for expert in kept if kept.count(expert) > 1)
            raise PlanError(f"layer {layer} keeps expert {twice} twice")
        for expert in kept:
            if not 0 <= expert < experts:
                raise PlanError(
                    f"layer {layer} keeps expert {expert}, but the model has experts "
                    f"0 to {experts - 1}"
                )
        if kept != sorted(kept):
            raise PlanError(f"layer {layer}: kept experts must ascend, got {kept}")
    counts = {layer: len(keep[layer]) for layer in layers}
    if len(set(counts.values())) > 1:
        few, many = min(layers, key=counts.__getitem__), max(layers, key=counts.__getitem__)
        raise PlanError(
            f"layer {few} keeps {counts[few]} experts and layer {many} keeps {counts[many]}: "
            "config.json holds one number for all layers, keep equally many in each"
        )
    limits = router_constraints(checkpoint)
    check_count(counts[layers[0]], limits)
    _check_groups(keep, limits)


def _check_groups(keep: Keep, limits: Constraints) -> None:
    """Groups are contiguous blocks of experts, of equal size before and after."""
    size = limits.experts // limits.groups
    for layer, kept in keep.items():
        share = len(kept) // limits.groups
        per_group = [sum(e // size == group for e in kept) for group in range(limits.groups)]
        if any(number != share for number in per_group):
            raise PlanError(
                f"layer {layer} keeps {per_group} experts of its {limits.groups} groups: the "
                f"router needs equally many of each, that is {share}"
            )


def _slice(spec: TensorSpec, axis: int, kept: Sequence[int]) -> SlicedTensor:
    """The kept slices along `axis`.

    With the expert axis first, as in every family so far, neighbouring experts are one range. On
    a later axis they are one range for every index before it: right, but many pieces.
    """
    slice_bytes = math.prod(spec.shape[axis + 1 :]) * STORAGE[spec.dtype].itemsize
    stride = spec.shape[axis] * slice_bytes
    pieces = joined(
        Piece(spec.path, spec.offset + before * stride + first * slice_bytes, count * slice_bytes)
        for before in range(math.prod(spec.shape[:axis]))
        for first, count in _runs(kept)
    )
    shape = (*spec.shape[:axis], len(kept), *spec.shape[axis + 1 :])
    return SlicedTensor(spec.name, spec.dtype, shape, pieces)


def _runs(kept: Sequence[int]) -> list[tuple[int, int]]:
    """(first, how many) of the experts that follow each other, in the order given."""
    runs: list[tuple[int, int]] = []
    for expert in kept:
        first, count = runs[-1] if runs else (expert, 0)
        if first + count == expert and runs:
            runs[-1] = (first, count + 1)
        else:
            runs.append((expert, 1))
    return runs


def _rename(spec: TensorSpec, match: TensorMatch, number: int) -> SlicedTensor:
    found = match.row.pattern.fullmatch(spec.name)
    assert found is not None  # the match was made with this very pattern
    start, end = found.span("expert")
    copy = whole(spec, _allowed(match))
    name = f"{spec.name[:start]}{number}{spec.name[end:]}"
    return SlicedTensor(name, copy.dtype, copy.shape, copy.pieces, copy.allowed)


def _allowed(match: TensorMatch) -> Allowed:
    """Rows without axes are parts we only carry: infinite clipping bounds are normal there."""
    return "finite" if match.row.axes else "infinite"


def _ranges(layers: Sequence[int]) -> str:
    return f"{layers[0]} to {layers[-1]}" if len(layers) > 1 else f"{layers[0]}"
