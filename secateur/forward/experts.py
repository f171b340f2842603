"""The one experts function: it multiplies each expert once, and shows its work to a watcher.

transformers 5 sends every fused-experts module through ALL_EXPERTS_FUNCTIONS; the module's own
flags (`is_transposed`, `has_bias`, `has_gate`, `_apply_gate`) say how its weights lie, so one
function serves all families. Token-expert pairs are sorted by expert; 16-bit weights are widened
one expert at a time, because a 16-bit product on a CPU without AMX is a hundred times slower
than a 32-bit one (design, 4.3). The sum over a token's experts runs in ascending expert order,
which is the order of transformers' eager loop.

Shapes: T tokens, K chosen experts per token, E experts, H hidden, I expert width.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

IMPLEMENTATION = "secateur"
"""The name under which the function is registered with transformers."""


class ExpertPairs(NamedTuple):
    """All tokens that one expert of one layer worked on, in one micro-batch (n of them)."""

    expert: int
    token: Tensor
    """int64 [n]: position in the flattened micro-batch, ascending."""
    slot: Tensor
    """int64 [n]: which of the token's K choices this expert was."""
    gate: Tensor
    """float32 [n]: the coefficient that multiplies the output."""
    inputs: Tensor
    """float32 [n, H]: what the expert saw."""
    inner: Tensor
    """float32 [n, I]: what its down projection saw."""
    outputs: Tensor
    """float32 [n, H]: its output, before the gate; overwritten when the watcher returns."""


class Watcher(Protocol):
    """Who wants to see the experts work.

    `counted` is bool [T]: other tokens are not sent to any expert, and their output is zero.
    """

    @property
    def counted(self) -> Tensor: ...

    def chosen(self, hidden: Tensor, experts: Tensor, gates: Tensor) -> None:
        """Called once per MoE layer: hidden [T, H], experts [T, K], gates [T, K]."""

    def pairs(self, pairs: ExpertPairs) -> None:
        """Called once per expert that has work, in ascending order."""


WATCHER: ContextVar[Watcher | None] = ContextVar("secateur_watcher", default=None)
"""Who watches the experts in this thread; None runs them unobserved."""


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """One expert's matrices, as float32, oriented so that `inputs @ up` works."""

    up: Tensor
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


def expert_weights(module: Any, expert: int) -> ExpertWeights:
    """Expert `expert` of a fused-experts module, widened to float32 (a view when it is already)."""
    up = module.gate_up_proj if module.has_gate else module.up_proj
    up_bias = None
    if module.has_bias:
        up_bias = (module.gate_up_proj_bias if module.has_gate else module.up_proj_bias)[expert]
    down_bias = module.down_proj_bias[expert] if module.has_bias else None

    def oriented(weight: Tensor) -> Tensor:
        return weight.float() if module.is_transposed else weight.float().t()

    return ExpertWeights(
        oriented(up[expert]),
        None if up_bias is None else up_bias.float(),
        oriented(module.down_proj[expert]),
        None if down_bias is None else down_bias.float(),
    )


def run_expert(module: Any, weights: ExpertWeights, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """(inner [n, I], outputs [n, H]) of one expert on inputs [n, H], all float32."""
    projected = inputs @ weights.up
    if weights.up_bias is not None:
        projected += weights.up_bias
    inner = module._apply_gate(projected) if module.has_gate else module.act_fn(projected)
    outputs = inner @ weights.down
    if weights.down_bias is not None:
        outputs += weights.down_bias
    if module.has_post_expert_norm:
        outputs = module.post_expert_norm(outputs)
    return inner, outputs


def observed_experts(
    self: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """transformers' experts interface: hidden [T, H], index [T, K], weights [T, K] -> [T, H]."""
    module: Any = self
    watcher = WATCHER.get()
    hidden = hidden_states.float()
    slots = top_k_index.shape[-1]
    if watcher is not None:
        watcher.chosen(hidden, top_k_index, top_k_weights)
    chosen = top_k_index
    if watcher is not None:
        # Filling goes to an expert that does not exist, behind all others.
        chosen = chosen.masked_fill(~watcher.counted.unsqueeze(-1), module.num_experts)
    chosen = chosen.reshape(-1)
    order = torch.argsort(chosen, stable=True)
    counts = torch.bincount(chosen, minlength=module.num_experts).tolist()[: module.num_experts]
    token = torch.div(order, slots, rounding_mode="floor")
    slot = order - token * slots
    gates = top_k_weights.reshape(-1)[order].float()
    total = torch.zeros_like(hidden)
    start = 0
    for expert, count in enumerate(counts):
        if not count:
            continue
        end = start + count
        rows, gate = token[start:end], gates[start:end]
        inputs = hidden.index_select(0, rows)
        inner, outputs = run_expert(module, expert_weights(module, expert), inputs)
        if watcher is not None:
            watcher.pairs(ExpertPairs(expert, rows, slot[start:end], gate, inputs, inner, outputs))
        total.index_add_(0, rows, outputs.mul_(gate.unsqueeze(-1)))
        start = end
    return total.to(hidden_states.dtype)


def register() -> None:
    """Make `experts_implementation="secateur"` known to transformers; safe to call again."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, observed_experts)


def is_experts(module: nn.Module) -> bool:
    """True for a fused-experts module that transformers dispatches through the interface."""
    return hasattr(module, "_apply_gate") and hasattr(module, "is_transposed")
