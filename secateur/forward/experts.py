"""The one experts function: it multiplies each expert once, and shows its work to a watcher.

transformers 5 sends every fused-experts module through ALL_EXPERTS_FUNCTIONS; the module's own
flags (`is_transposed`, `has_bias`, `has_gate`, `_apply_gate`) say how its weights lie, so one
function serves all families. Token-expert pairs are sorted by expert; 16-bit weights are widened
one expert at a time, because a 16-bit product on a CPU without AMX is a hundred times slower
than a 32-bit one (design, 4.3). The sum over a token's experts runs in ascending expert order,
which is the order of transformers' eager loop.

Several micro-batches may go through the experts together (forward.meeting): a product with 32
rows runs at half the speed of one with 256, and each expert is widened once for all of them. Small
experts go several at a time, so that Python has less to do between their products.

Shapes: T tokens (of all micro-batches), K chosen experts per token, E experts, H hidden, I width.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from secateur.forward.batches import NARROW
from secateur.forward.kernels import Floats, add_scaled

IMPLEMENTATION = "secateur"
"""The name under which the function is registered with transformers."""


TILE = 512
"""Rows that go through experts at once; fixed, so that the bits do not depend on workers."""


class Part(NamedTuple):
    """What one micro-batch brings to the experts of a layer."""

    hidden: Tensor
    """[t, H]"""
    experts: Tensor
    """int64 [t, K]"""
    gates: Tensor
    """[t, K]"""


class Pairs(NamedTuple):
    """All pairs of a token and an expert that works on it, P of them, by expert and token."""

    token: Tensor
    """int64 [P]: position in the flattened micro-batches."""
    slot: Tensor
    """int64 [P]: which of the token's K choices the expert was."""
    gate: Tensor
    """float32 [P]: the coefficient that multiplies the expert's output."""
    counts: list[int]
    """[E]: how many pairs each expert has."""


class Tile(NamedTuple):
    """What experts did for n pairs, which begin at `first` among all."""

    first: int
    inputs: Tensor
    """float32 [n, H]: what the experts saw."""
    inner: Tensor
    """float32 [n, I]: what their down projections saw."""
    outputs: Tensor
    """float32 [n, H]: their output, before the gate."""


class Watcher(Protocol):
    """Who wants to see the experts work.

    `counted` is bool [T]: other tokens are not sent to any expert, and their output is zero.
    """

    @property
    def counted(self) -> Tensor: ...

    def chosen(self, hidden: Tensor, experts: Tensor, gates: Tensor, pairs: Pairs) -> None:
        """Called once per MoE layer: hidden [T, H], experts [T, K], gates [T, K], and the pairs
        of the tokens that count."""

    def worked(self, tile: Tile) -> None:
        """Called for each tile: those of an expert in order, others in any order and at the same
        time."""


class Seat(Protocol):
    """A micro-batch's place among those that go through the experts together."""

    def share(self, module: nn.Module, part: Part) -> Tensor:
        """The experts' output for this part, [t, H]; waits for the others."""


SEAT: ContextVar[Seat | None] = ContextVar("secateur_seat", default=None)
"""The seat of the micro-batch that this thread computes; None runs its experts alone."""


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


def _numbers_of_an_expert(module: Any) -> int:
    stacks = (module.gate_up_proj if module.has_gate else module.up_proj, module.down_proj)
    return sum(math.prod(stack.shape[1:]) for stack in stacks)


def run_experts(
    module: Any, weights: Sequence[ExpertWeights], sizes: list[int], inputs: Tensor
) -> tuple[Tensor, Tensor]:
    """(inner [n, I], outputs [n, H]) of experts on inputs [n, H], all float32.

    The rows are those of the first expert, `sizes[0]` of them, then those of the next.
    """
    projected = _products(inputs, sizes, [(one.up, one.up_bias) for one in weights])
    inner = module._apply_gate(projected) if module.has_gate else module.act_fn(projected)
    outputs = _products(inner, sizes, [(one.down, one.down_bias) for one in weights])
    if module.has_post_expert_norm:
        outputs = module.post_expert_norm(outputs)
    return inner, outputs


def _products(
    inputs: Tensor, sizes: list[int], by: Sequence[tuple[Tensor, Tensor | None]]
) -> Tensor:
    """Every part of the inputs times its matrix, plus its bias."""
    found = inputs.new_empty(len(inputs), by[0][0].shape[-1])
    parts = zip(torch.split(inputs, sizes), torch.split(found, sizes), by, strict=True)
    for given, part, (matrix, bias) in parts:
        torch.mm(given, matrix, out=part)
        if bias is not None:
            part.add_(bias)
    return found


class _Load(NamedTuple):
    """Experts that a thread runs at once, and their tiles: (first pair, rows of each expert)."""

    experts: list[int]
    tiles: list[tuple[int, list[int]]]


def _loads(counts: Sequence[int], rows: int, together: int) -> list[_Load]:
    """Experts with `counts` [E] pairs in loads: at most `together` neighbours that share a tile of
    at most `rows` rows, or one whose rows make one or more tiles."""
    found: list[_Load] = []
    start = 0
    for expert, count in enumerate(counts):
        last = found[-1] if found else None
        if not count:
            continue
        if last and len(last.experts) < together and sum(last.tiles[0][1]) + count <= rows:
            last.experts.append(expert)
            last.tiles[0][1].append(count)
        else:
            stop = start + count
            tiles = [(first, [min(rows, stop - first)]) for first in range(start, stop, rows)]
            found.append(_Load([expert], tiles))
        start += count
    return found


class ExpertWork:
    """The work of a layer's experts on some micro-batches; any number of threads may help.

    Every expert is run by one thread, and what they give is added in their order: the result
    does not depend on the threads. Peak memory: inputs and outputs of all tokens, and per thread
    one expert in float32 (or several with NARROW numbers) and its outputs.
    """

    def __init__(self, module: Any, parts: Sequence[Part], watcher: Watcher | None) -> None:
        self._module = module
        self._watcher = watcher
        number: int = self._module.num_experts
        hidden, chosen, gates = (
            torch.cat(column) if len(column) > 1 else column[0]
            for column in zip(*parts, strict=True)
        )
        self._sizes = [len(part.hidden) for part in parts]
        self._hidden = hidden.float()
        self._total = torch.zeros_like(self._hidden)
        counted = None if watcher is None else watcher.counted
        self._pairs = pairs = _pairs(chosen, gates, number, counted)
        if watcher is not None:
            watcher.chosen(self._hidden, chosen, gates, pairs)
        rows = max(TILE, NARROW // self._hidden.shape[-1])
        self._loads = _loads(pairs.counts, rows, max(1, NARROW // _numbers_of_an_expert(module)))
        self._lock = threading.Lock()
        self._taken = self._added = 0
        self._adding = False
        self._finished: dict[int, list[tuple[int, Floats]]] = {}

    def help(self) -> None:
        """Run experts that nobody has begun, until there are none."""
        while True:
            with self._lock:
                number = self._taken
                self._taken += 1
            if number >= len(self._loads):
                return
            done = self._run(self._loads[number])
            with self._lock:
                self._finished[number] = done
            self._add_finished()

    def results(self) -> tuple[Tensor, ...]:
        """The output of each part [t, H], once all experts are done."""
        return torch.split(self._total, self._sizes)

    def _run(self, load: _Load) -> list[tuple[int, Floats]]:
        weights = [expert_weights(self._module, expert) for expert in load.experts]
        done = []
        for first, sizes in load.tiles:
            inputs = self._hidden.index_select(0, self._pairs.token[first : first + sum(sizes)])
            inner, outputs = run_experts(self._module, weights, sizes, inputs)
            if self._watcher is not None:
                self._watcher.worked(Tile(first, inputs, inner, outputs))
            done.append((first, outputs.numpy()))
        return done

    def _add_finished(self) -> None:
        """Add what is next in the order of the experts, unless another thread is doing so."""
        while True:
            with self._lock:
                if self._adding or self._added not in self._finished:
                    return
                outputs = self._finished.pop(self._added)
                self._adding = True
            token, gate = self._pairs.token.numpy(), self._pairs.gate.numpy()
            for first, values in outputs:
                add_scaled(self._total.numpy(), token, gate, values, first)
            with self._lock:
                self._added += 1
                self._adding = False


def _pairs(chosen: Tensor, gates: Tensor, experts: int, counted: Tensor | None) -> Pairs:
    slots = chosen.shape[-1]
    if counted is not None:
        # Filling goes to an expert that does not exist, behind all others.
        chosen = chosen.masked_fill(~counted.unsqueeze(-1), experts)
    order = torch.argsort(chosen.reshape(-1), stable=True)
    counts = torch.bincount(chosen.reshape(-1), minlength=experts)[:experts].tolist()
    order = order[: sum(counts)]
    token = torch.div(order, slots, rounding_mode="floor")
    gate = gates.reshape(-1)[order].float()
    return Pairs(token, order - token * slots, gate, counts)


def observed_experts(
    self: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """transformers' experts interface: hidden [T, H], index [T, K], weights [T, K] -> [T, H]."""
    part = Part(hidden_states, top_k_index, top_k_weights)
    seat = SEAT.get()
    if seat is not None:
        return seat.share(self, part).to(hidden_states.dtype)
    work = ExpertWork(self, [part], None)
    work.help()
    return work.results()[0].to(hidden_states.dtype)


def register() -> None:
    """Make `experts_implementation="secateur"` known to transformers; safe to call again."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, observed_experts)


def is_experts(module: nn.Module) -> bool:
    """True for a fused-experts module that transformers dispatches through the interface."""
    return hasattr(module, "_apply_gate") and hasattr(module, "is_transposed")
