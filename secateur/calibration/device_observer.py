"""What the experts of one layer do on one group of micro-batches, noted on their device.

The same notes as group_observer makes, as torch operations: no number is brought to the host, and
nothing waits, but for how many rows each expert has, where Gram matrices are made. Sums over tokens
are made in float32 in an order that depends on the group alone; from there on they are exact
(device_sums).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from secateur.calibration.device_gram_sums import DeviceGramSums
from secateur.calibration.group_observer import reference_gates
from secateur.calibration.observers.base import Observations, Observer, Values
from secateur.calibration.token_sample import Drawn, Seen, join_drawn, see
from secateur.forward.backends.host_copy import HostCopy
from secateur.forward.batches import Group
from secateur.forward.expert_work import Assignments, Tile


class DeviceObserver:
    """Notes what the experts of one layer do on one group (T tokens, K choices, E experts)."""

    def __init__(
        self,
        group: Group,
        masks: Sequence[Tensor],
        drawn: Mapping[int, Drawn],
        observers: Sequence[Observer],
        device: torch.device,
        gram: DeviceGramSums | None = None,
    ) -> None:
        self.group = group
        self.mask = torch.cat([part.reshape(-1) for part in masks])
        self.observers = observers
        self.seen: Seen | None = None
        self.gram = gram
        self.tokens = self.outer_squares = self.inner_squares = torch.empty(0)
        self.linears: dict[str, Tensor] = {}
        """{running name: squared inputs float32 [N]}"""
        self.assignments: Assignments | None = None
        self.norms = self.largest = self.reference = torch.empty(0)
        self._measured: list[Tensor | None] = []
        self._counts: HostCopy | None = None
        self._kept = [_kept_rows(part, device) for part in masks]
        self._counted = self._kept
        if gram is not None:
            self._counted = [
                _kept_rows(gram.counted(batch.index, part.reshape(-1)), device)
                for batch, part in zip(group, masks, strict=True)
            ]
        self._all_kept = _kept_rows(self.mask, device)
        self._last: tuple[Tensor, Tensor] | None = None
        self._gram_inputs: tuple[Tensor, str] | None = None
        self._scores: list[Tensor | None] = [None] * len(group)
        self._drawn = join_drawn(group, drawn)

    def scored(self, member: int, scores: Tensor) -> None:
        """The router's scores [t, E] of one micro-batch."""
        self._scores[member] = scores

    @property
    def unscored(self) -> bool:
        """True when the experts worked though the router was not seen."""
        return any(part is None for part in self._scores)

    def on_dispatch(
        self, hidden: Tensor, experts: Tensor, routing_weights: Tensor, assignments: Assignments
    ) -> None:
        scores = [part for part in self._scores if part is not None]
        if len(scores) < len(self.group):
            return  # `unscored` is then true, and the caller raises
        all_scores = torch.cat(scores)
        self.assignments = assignments
        self.tokens = assignments.counts
        if self.gram is not None and self.gram.of_each_expert:
            self._counts = HostCopy(self.tokens)
        self.reference = reference_gates(all_scores, experts)[assignments.token, assignments.slot]
        self.outer_squares = _squares_by_expert(hidden, experts, len(self.tokens), self._all_kept)
        if self._drawn is not None:
            self.seen = see(self._drawn, self.mask, hidden, all_scores, experts, routing_weights)

    def on_tile(self, tile: Tile) -> None:
        """The only tile: all assignments."""
        if self.unscored:
            return
        # Rows are sorted by expert: a segment each.
        self.inner_squares = torch.segment_reduce(
            tile.inner.float().square(), "sum", lengths=self.tokens, axis=0, unsafe=True
        )
        self.norms = torch.linalg.vector_norm(tile.outputs, dim=-1, dtype=torch.float32)
        self.largest = torch.linalg.vector_norm(tile.outputs, torch.inf, dim=-1).float()
        if self.gram is not None and self._counts is not None:
            self.gram.add_inner(tile.inner, self._counts.wait().tolist())
        if any(one.measure for one in self.observers):
            wide = Tile(0, tile.inputs.float(), tile.inner.float(), tile.outputs.float())
            self._measured = [one.measure(wide) if one.measure else None for one in self.observers]

    def linear(self, member: int, path: str, inputs: Tensor) -> None:
        """Squared inputs of a dense linear; projections that share an input share the work."""
        if self._last is None or self._last[0] is not inputs:
            rows = _take_rows(inputs, self._kept[member])
            squares = torch.linalg.vector_norm(rows, dim=0, dtype=torch.float32).square()
            self._last = inputs, squares
        squares = self._last[1]
        self.linears[path] = squares if path not in self.linears else self.linears[path] + squares

    def gram_inputs(self, member: int, name: str, inputs: Tensor) -> None:
        """Gram matrix of a linear's inputs; those that follow with the same inputs share it."""
        if self.gram is None:
            return
        if self._gram_inputs is None or self._gram_inputs[0] is not inputs:
            rows = _take_rows(inputs, self._counted[member])
            self.gram.add_rows(name, rows)
            self._gram_inputs = inputs, name
        self.gram.share(name, self._gram_inputs[1])

    def measured(self) -> list[Values]:
        """The rows of every observer, on the host."""
        rows = self._measured or [None] * len(self.observers)
        empty = torch.empty(0)
        return [(empty if one is None else one).double().cpu().numpy() for one in rows]

    def observations(self) -> Observations:
        """What the experts did, assignment by assignment, on the host: it waits for the device."""
        assert self.assignments is not None
        token, _, gate, counts = self.assignments
        owner = torch.repeat_interleave(torch.arange(len(counts)), counts.cpu())
        columns = gate, self.norms, self.largest, self.reference
        gate, norms, largest, reference = (part.cpu() for part in columns)
        return Observations(
            token.cpu().numpy(),
            owner.numpy(),
            gate.double().numpy(),
            norms.double().numpy(),
            largest.numpy(),
            reference.double().numpy(),
        )


def _kept_rows(mask: Tensor, device: torch.device) -> Tensor | None:
    """int64 [n]: the unmasked of flattened tokens; None for all."""
    flat = mask.reshape(-1)
    return None if bool(flat.all()) else flat.nonzero()[:, 0].to(device, non_blocking=True)


def _take_rows(inputs: Tensor, rows: Tensor | None) -> Tensor:
    flat = inputs.reshape(-1, inputs.shape[-1])
    return flat if rows is None else flat[rows]


def _squares_by_expert(hidden: Tensor, experts: Tensor, count: int, kept: Tensor | None) -> Tensor:
    """float32 [E, H]: the squared inputs of every expert, as one product with who chose whom."""
    if kept is not None:
        hidden, experts = hidden[kept], experts[kept]
    chosen = torch.zeros(len(experts), count, device=hidden.device)
    chosen.scatter_(1, experts, 1.0)
    return chosen.t() @ hidden.float().square()
