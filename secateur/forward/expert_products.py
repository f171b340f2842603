"""The matrix products of fused experts, whatever way their weights lie.

transformers 5 marks every fused-experts module with flags (`is_transposed`, `has_bias`,
`has_gate`, `_apply_gate`), so one function serves all families. 16-bit weights are widened one
expert at a time, because a 16-bit product on a CPU without AMX is a hundred times slower than a
32-bit one.

Shapes: n rows of inputs, H hidden, I expert width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """One expert's matrices, as float32, oriented so that `inputs @ up` works."""

    up: Tensor
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


class Room:
    """Memory of one thread for the widened matrices of a few experts, used for one after the other.

    An expert of a 26B model takes 24 MB; memory that is mapped anew for each takes longer to get
    than to fill.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[int, bool], Tensor] = {}

    def widen(self, weight: Tensor, place: int, *, down: bool) -> Tensor:
        """The weight as float32 (itself when it is already), until `place` is asked for again."""
        if weight.dtype == torch.float32:
            return weight
        held = self._held.get((place, down))
        if held is None or held.shape != weight.shape:
            held = torch.empty_like(weight, dtype=torch.float32)
            self._held[place, down] = held
        return held.copy_(weight)


def widen_expert(
    module: Any, expert: int, room: Room | None = None, place: int = 0
) -> ExpertWeights:
    """Expert `expert` of a fused-experts module, widened to float32 (a view when it is already):
    into a place of a `room`, else into memory of its own."""
    room = room or Room()
    up = module.gate_up_proj if module.has_gate else module.up_proj
    up_bias = None
    if module.has_bias:
        up_bias = (module.gate_up_proj_bias if module.has_gate else module.up_proj_bias)[expert]
    down_bias = module.down_proj_bias[expert] if module.has_bias else None

    def orient(weight: Tensor) -> Tensor:
        return weight if module.is_transposed else weight.t()

    return ExpertWeights(
        orient(room.widen(up[expert], place, down=False)),
        None if up_bias is None else up_bias.float(),
        orient(room.widen(module.down_proj[expert], place, down=True)),
        None if down_bias is None else down_bias.float(),
    )


def count_expert_elements(module: Any) -> int:
    """How many numbers the matrices of one expert have."""
    stacks = (module.gate_up_proj if module.has_gate else module.up_proj, module.down_proj)
    return sum(math.prod(stack.shape[1:]) for stack in stacks)


def run_experts(
    module: Any, weights: Sequence[ExpertWeights], sizes: list[int], inputs: Tensor
) -> tuple[Tensor, Tensor]:
    """(inner [n, I], outputs [n, H]) of experts on inputs [n, H], all float32.

    The rows are those of the first expert, `sizes[0]` of them, then those of the next.
    """
    projected = _multiply(inputs, sizes, [(one.up, one.up_bias) for one in weights])
    inner = module._apply_gate(projected) if module.has_gate else module.act_fn(projected)
    outputs = _multiply(inner, sizes, [(one.down, one.down_bias) for one in weights])
    if getattr(module, "has_post_expert_norm", False):
        outputs = module.post_expert_norm(outputs)
    return inner, outputs


def _multiply(
    inputs: Tensor, sizes: list[int], by: Sequence[tuple[Tensor, Tensor | None]]
) -> Tensor:
    """Every part of the inputs times its matrix, plus its bias."""
    result = inputs.new_empty(len(inputs), by[0][0].shape[-1])
    parts = zip(torch.split(inputs, sizes), torch.split(result, sizes), by, strict=True)
    for given, part, (matrix, bias) in parts:
        torch.mm(given, matrix, out=part)
        if bias is not None:
            part.add_(bias)
    return result
