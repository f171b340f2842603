"""The work of a layer's experts on a batch of tokens, in items that several threads take.

Token-expert assignments are sorted by expert, so that each expert is widened and multiplied once
for all of its tokens. Small experts go several at a time, so that Python has less to do between
their products. The sum over a token's experts runs in ascending order of the experts, as in
transformers' eager loop.

Shapes: T tokens (of all micro-batches), K chosen experts per token, E experts, H hidden, I width,
P assignments.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from secateur.forward.batches import MIN_WORK_ELEMENTS
from secateur.forward.expert_products import Room, count_expert_elements, run_experts, widen_expert
from secateur.forward.kernels import Floats, add_scaled

TILE_ROWS = 512
"""Rows that go through experts at once; fixed, so that the bits do not depend on workers."""


class ExpertInput(NamedTuple):
    """What one micro-batch brings to the experts of a layer."""

    hidden: Tensor
    """[t, H]"""
    experts: Tensor
    """int64 [t, K]"""
    routing_weights: Tensor
    """[t, K]"""


class Assignments(NamedTuple):
    """All pairs of a token and an expert that works on it, P of them, by expert and token."""

    token: Tensor
    """int64 [P]: position in the flattened micro-batches"""
    slot: Tensor
    """int64 [P]: which of the token's K choices the expert was"""
    routing_weight: Tensor
    """float32 [P]: the coefficient that multiplies the expert's output"""
    counts: Tensor
    """int64 [E]: how many tokens each expert has"""


class Tile(NamedTuple):
    """What experts did for n assignments, which begin at `first` among all."""

    first: int
    inputs: Tensor
    """float32 [n, H]: what the experts saw"""
    inner: Tensor
    """float32 [n, I]: what their down projections saw"""
    outputs: Tensor
    """float32 [n, H]: their output, before the routing weight"""


class ExpertObserver(Protocol):
    """Sees what the experts of one layer do on one group of micro-batches.

    `mask` is bool [T]: tokens where it is False (padding and masked ones) are sent to no expert,
    and their output is zero.
    """

    @property
    def mask(self) -> Tensor: ...

    def on_dispatch(
        self, hidden: Tensor, experts: Tensor, routing_weights: Tensor, assignments: Assignments
    ) -> None:
        """Called once per MoE layer, before any expert runs: hidden [T, H], experts [T, K],
        routing weights [T, K], and the assignments of the unmasked tokens."""

    def on_tile(self, tile: Tile) -> None:
        """Called for each tile: those of one expert in order; those of others in any order, and
        from several threads at the same time."""


class WorkItem(NamedTuple):
    """Experts that a thread runs at once, and their tiles: (first assignment, rows of each
    expert)."""

    experts: list[int]
    tiles: list[tuple[int, list[int]]]


def split_work(counts: Sequence[int], rows: int, together: int) -> list[WorkItem]:
    """Experts with `counts` [E] assignments as work items: at most `together` neighbours that
    share a tile of at most `rows` rows, or one expert whose rows make one or more tiles."""
    items: list[WorkItem] = []
    start = 0
    for expert, count in enumerate(counts):
        last = items[-1] if items else None
        if not count:
            continue
        if last and len(last.experts) < together and sum(last.tiles[0][1]) + count <= rows:
            last.experts.append(expert)
            last.tiles[0][1].append(count)
        else:
            stop = start + count
            tiles = [(first, [min(rows, stop - first)]) for first in range(start, stop, rows)]
            items.append(WorkItem([expert], tiles))
        start += count
    return items


class ExpertWork:
    """The work of a layer's experts on some micro-batches; any number of threads may help.

    Every expert is run by one thread, and outputs are added in the order of the experts: the
    result does not depend on the threads. Peak memory: inputs and outputs of all tokens, and per
    thread one expert in float32 (or several, of MIN_WORK_ELEMENTS numbers in all) and its outputs.
    """

    def __init__(
        self, module: Any, inputs: Sequence[ExpertInput], observer: ExpertObserver | None
    ) -> None:
        self._module = module
        self._observer = observer
        hidden, experts, weights = (
            torch.cat(column) if len(column) > 1 else column[0]
            for column in zip(*inputs, strict=True)
        )
        self._sizes = [len(one.hidden) for one in inputs]
        self._hidden = hidden.float()
        self._total = torch.zeros_like(self._hidden)
        mask = None if observer is None else observer.mask
        self._assignments = _assign(experts, weights, self._module.num_experts, mask)
        if observer is not None:
            observer.on_dispatch(self._hidden, experts, weights, self._assignments)
        rows = max(TILE_ROWS, MIN_WORK_ELEMENTS // self._hidden.shape[-1])
        together = max(1, MIN_WORK_ELEMENTS // count_expert_elements(module))
        self._items = split_work(self._assignments.counts.tolist(), rows, together)
        self._lock = threading.Lock()
        self._taken = self._added = 0
        self._adding = False
        self._finished: dict[int, list[tuple[int, Floats]]] = {}

    def help(self) -> None:
        """Take work items that nobody has taken, until there are none."""
        room = Room()
        while True:
            with self._lock:
                number = self._taken
                self._taken += 1
            if number >= len(self._items):
                return
            outputs = self._run(self._items[number], room)
            with self._lock:
                self._finished[number] = outputs
            self._add_finished()

    def results(self) -> tuple[Tensor, ...]:
        """The output of each micro-batch, [t, H], once all experts are done."""
        return torch.split(self._total, self._sizes)

    def _run(self, item: WorkItem, room: Room) -> list[tuple[int, Floats]]:
        weights = [
            widen_expert(self._module, expert, room, place)
            for place, expert in enumerate(item.experts)
        ]
        results = []
        for first, sizes in item.tiles:
            token = self._assignments.token[first : first + sum(sizes)]
            inputs = self._hidden.index_select(0, token)
            inner, outputs = run_experts(self._module, weights, sizes, inputs)
            if self._observer is not None:
                self._observer.on_tile(Tile(first, inputs, inner, outputs))
            results.append((first, outputs.numpy()))
        return results

    def _add_finished(self) -> None:
        """Add what is next in the order of the experts, unless another thread is doing so."""
        token = self._assignments.token.numpy()
        weight = self._assignments.routing_weight.numpy()
        while True:
            with self._lock:
                if self._adding or self._added not in self._finished:
                    return
                outputs = self._finished.pop(self._added)
                self._adding = True
            for first, values in outputs:
                add_scaled(self._total.numpy(), token, weight, values, first)
            with self._lock:
                self._added += 1
                self._adding = False


def _assign(
    experts: Tensor, routing_weights: Tensor, number: int, mask: Tensor | None
) -> Assignments:
    """Sort the pairs of token and chosen expert [T, K] by expert; masked tokens have none."""
    slots = experts.shape[-1]
    if mask is not None:
        # Masked tokens are sent to an expert that does not exist, behind all others.
        experts = experts.masked_fill(~mask.unsqueeze(-1), number)
    order = torch.argsort(experts.reshape(-1), stable=True)
    counts = torch.bincount(experts.reshape(-1), minlength=number)[:number]
    order = order[: int(counts.sum())]
    token = torch.div(order, slots, rounding_mode="floor")
    weight = routing_weights.reshape(-1)[order].float()
    return Assignments(token, order - token * slots, weight, counts)
