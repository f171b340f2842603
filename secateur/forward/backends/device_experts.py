"""The experts of a layer on a device: all tokens of a micro-batch in a few operations.

Pairs of a token and an expert are sorted by expert, all experts are multiplied in one grouped
product, and a token's outputs are added up where they lie. Nothing makes the host wait for the
device. Shapes: T tokens, K chosen per token, E experts, H hidden, P pairs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.forward.backends.grouped_products import GroupedProducts
from secateur.forward.expert_work import Assignments, ExpertInput, ExpertObserver, Tile


class Projections(NamedTuple):
    """Matrices of experts, oriented so that `inputs @ matrices[e]` works."""

    matrices: Tensor
    """[E, N, M]"""
    bias: Tensor | None
    """[E, M]"""


class DeviceMember:
    """Runs the experts of the micro-batches that one thread computes (see experts.BatchMember)."""

    def __init__(self, products: GroupedProducts, observer: ExpertObserver | None = None) -> None:
        self.observer = observer
        self.number = 0
        self._products = products

    def dispatch(self, module: nn.Module, given: ExpertInput) -> Tensor:
        """The experts' output for a micro-batch, [T, H]."""
        return run_experts_on_device(module, given, self.observer, self._products)


def run_experts_on_device(
    module: Any, given: ExpertInput, observer: ExpertObserver | None, products: GroupedProducts
) -> Tensor:
    """The experts' output [T, H]; zero for tokens that the observer masks.

    Peak memory: inputs, inner activations and outputs of all pairs.
    """
    hidden, experts, weights = given
    mask = None if observer is None else observer.mask
    kept = None
    if mask is not None and not bool(mask.all()):  # the mask is on the host: nothing waits
        kept = mask.nonzero()[:, 0].to(hidden.device, non_blocking=True)
        experts, weights = experts[kept], weights[kept]
    assignments, order, ends = _assign(experts, weights, module.num_experts, kept)
    if observer is not None:
        observer.on_dispatch(hidden, given.experts, given.routing_weights, assignments)
    inputs = hidden.index_select(0, assignments.token)
    inner, outputs = _multiply_experts(module, inputs, ends, products)
    if observer is not None:
        observer.on_tile(Tile(0, inputs, inner, outputs))
    total = _add_up(outputs, order, weights)
    if kept is None:
        return total
    return torch.zeros_like(hidden).index_copy_(0, kept, total)


def run_chosen_experts(
    module: Any,
    inputs: Tensor,
    experts: Tensor,
    products: GroupedProducts,
    down: Projections | None,
) -> Tensor:
    """The outputs [T, K, H] of the experts [T, K] chosen for inputs [T, H], before any weight;
    with other down projections, what those give, [T, K, M]."""
    weights = experts  # any: outputs are not weighted
    assignments, order, ends = _assign(experts, weights, module.num_experts, None)
    rows = inputs.index_select(0, assignments.token)
    outputs = _multiply_experts(module, rows, ends, products, down)[1]
    return outputs[_places(order)].view(*experts.shape, -1)


def _assign(
    experts: Tensor, weights: Tensor, count: int, kept: Tensor | None
) -> tuple[Assignments, Tensor, Tensor]:
    """The pairs by expert and token, the order that sorts them (int64 [P]), and where the rows of
    each expert end (int32 [E])."""
    slots = experts.shape[-1]
    flat = experts.reshape(-1)
    by_expert, order = torch.sort(flat, stable=True)
    numbers = torch.arange(count, device=flat.device, dtype=flat.dtype)
    ends = torch.searchsorted(by_expert, numbers, right=True)
    token = torch.div(order, slots, rounding_mode="floor")
    slot = order - token * slots
    token = token if kept is None else kept[token]
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    weight = weights.reshape(-1)[order].float()
    return Assignments(token, slot, weight, counts), order, ends.to(torch.int32)


def _multiply_experts(
    module: Any,
    inputs: Tensor,
    ends: Tensor,
    products: GroupedProducts,
    down: Projections | None = None,
) -> tuple[Tensor, Tensor]:
    """(inner [P, I], outputs [P, H]) of the experts on their rows."""
    first = "gate_up_proj" if module.has_gate else "up_proj"
    rows = torch.arange(len(inputs), device=inputs.device, dtype=torch.int32)
    expert = torch.searchsorted(ends, rows, right=True) if module.has_bias else None

    def multiply(given: Tensor, by: Projections) -> Tensor:
        result = products(given, by.matrices, ends)
        if expert is not None and by.bias is not None:
            result = result + by.bias[expert].to(result.dtype)
        return result

    def find(name: str) -> Projections:
        stack = getattr(module, name)
        bias = getattr(module, f"{name}_bias") if module.has_bias else None
        return Projections(stack if module.is_transposed else stack.mT, bias)

    projected = multiply(inputs, find(first))
    inner = module._apply_gate(projected) if module.has_gate else module.act_fn(projected)
    outputs = multiply(inner, down or find("down_proj"))
    if getattr(module, "has_post_expert_norm", False):
        outputs = module.post_expert_norm(outputs)
    return inner, outputs


def _add_up(outputs: Tensor, order: Tensor, weights: Tensor) -> Tensor:
    """[T, H]: each token's outputs [P, H], multiplied by its weights [T, K] (in the outputs' type)
    and added in the order of its choices, in float32; one pass over the outputs."""
    return nn.functional.embedding_bag(
        _places(order).view(weights.shape),
        outputs,
        per_sample_weights=weights.to(outputs.dtype),
        mode="sum",
    )


def _places(order: Tensor) -> Tensor:
    """Where each pair lies among the sorted ones, int64 [P]."""
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    return places
