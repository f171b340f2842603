"""What the experts of one layer do on one group of micro-batches, noted while they work.

Per group everything is summed in a fixed order and then added exactly, so the result does not
depend on workers, nor on how whole groups are divided.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.calibration.gram_sums import GramSums
from secateur.calibration.observers.base import Observations, Observer, measured_rows
from secateur.calibration.token_sample import Drawn, Seen, join_drawn, see
from secateur.forward.batches import Group
from secateur.forward.expert_work import Assignments, Tile
from secateur.forward.kernels import add_squares, note_sizes

_NOTHING = Observations(
    *(np.zeros(0, np.int64),) * 2, *(np.zeros(0),) * 2, np.zeros(0, np.float32), np.zeros(0)
)


class GroupObserver:
    """Notes what the experts of one layer do on one group (T tokens, K choices, E experts).

    Not a sum yet: per assignment it keeps the output's norm and largest element and what the
    `observers` measure, and per expert the squared inputs. `LayerSums.add` turns them into sums.
    Threads write to places of their own: a member's, or an expert's.
    """

    def __init__(
        self,
        group: Group,
        masks: Sequence[Tensor],
        experts: int,
        drawn: Mapping[int, Drawn],
        observers: Sequence[Observer] = (),
        gram: GramSums | None = None,
    ) -> None:
        self.group = group
        self.gram = gram
        self.mask = torch.cat([part.reshape(-1) for part in masks])
        self.seen: Seen | None = None
        self.tokens = np.zeros(experts, np.int64)
        self.outer_squares = self.inner_squares = np.empty(0)
        # Owners for add_squares: 0, or -1 for a masked token.
        self._row_owners = [part.reshape(-1).numpy().astype(np.int64) - 1 for part in masks]
        self._drawn = join_drawn(group, drawn)
        self._linears: list[dict[str, NDArray[np.float64]]] = [{} for _ in group]
        self._last: list[tuple[Tensor, NDArray[np.float64]] | None] = [None] * len(group)
        self._gram_inputs: list[tuple[Tensor, str] | None] = [None] * len(group)
        self._scores: list[Tensor | None] = [None] * len(group)
        self._all_scores = self._experts = torch.empty(0)
        self._assignments: Assignments | None = None
        self._owner = np.empty(0, np.int64)
        self._norms = np.empty(0)
        self._largest = np.empty(0, np.float32)
        self.observers = observers
        self.measured = measured_rows(observers, 0)
        self._lock = threading.Lock()

    def scored(self, member: int, scores: Tensor) -> None:
        """The router's scores [t, E] of one micro-batch."""
        self._scores[member] = scores

    def on_dispatch(
        self, hidden: Tensor, experts: Tensor, routing_weights: Tensor, assignments: Assignments
    ) -> None:
        scores = [part for part in self._scores if part is not None]
        if len(scores) < len(self.group):
            return  # `unscored` is then true, and the caller raises
        self._all_scores = torch.cat(scores)
        self._experts, self._assignments = experts, assignments
        self.tokens = assignments.counts.numpy()
        self._owner = np.repeat(np.arange(len(self.tokens)), self.tokens)
        self._norms = np.empty(len(assignments.token))
        self._largest = np.empty(len(assignments.token), np.float32)
        self.measured = measured_rows(self.observers, len(assignments.token))
        self.outer_squares = np.zeros((len(self.tokens), hidden.shape[-1]))
        if self._drawn is not None:
            scores_of = self._all_scores, experts, routing_weights.float()
            self.seen = see(self._drawn, self.mask, hidden, *scores_of)

    @property
    def unscored(self) -> bool:
        """True when the experts worked though the router was not seen."""
        return any(part is None for part in self._scores)

    def on_tile(self, tile: Tile) -> None:
        if self.unscored:
            return
        inputs, inner, outputs = tile.inputs.numpy(), tile.inner.numpy(), tile.outputs.numpy()
        with self._lock:
            if self.inner_squares.size == 0:
                self.inner_squares = np.zeros((len(self.tokens), inner.shape[-1]))
        add_squares(self.outer_squares, inputs, self._owner, tile.first)
        add_squares(self.inner_squares, inner, self._owner, tile.first)
        bits = self._largest.view(np.int32), outputs, outputs.view(np.int32)
        note_sizes(self._norms, *bits, tile.first)
        if self.gram is not None and self.gram.of_each_expert:
            owner = self._owner[tile.first : tile.first + len(inputs)]
            self.gram.add_inner(tile.inner, owner)
        for observer, rows in zip(self.observers, self.measured, strict=True):
            if observer.measure is not None:
                rows[tile.first : tile.first + len(outputs)] = observer.measure(tile).numpy()

    def linear(self, member: int, path: str, inputs: Tensor) -> None:
        """Squared inputs of a dense linear; projections that share an input share the work."""
        last = self._last[member]
        if last is None or last[0] is not inputs:
            flat = inputs.reshape(-1, inputs.shape[-1]).float().numpy()
            squares = np.zeros((1, flat.shape[-1]))
            add_squares(squares, flat, self._row_owners[member], 0)
            last = self._last[member] = inputs, squares[0]
        self._linears[member][path] = last[1]

    def gram_inputs(self, member: int, name: str, inputs: Tensor) -> None:
        """Gram matrix of a linear's inputs; those that follow with the same inputs share it."""
        if self.gram is None:
            return
        last = self._gram_inputs[member]
        if last is None or last[0] is not inputs:
            rows = inputs.reshape(-1, inputs.shape[-1]).float()
            unmasked = torch.from_numpy(self._row_owners[member] == 0)
            counted = self.gram.counted(self.group[member].index, unmasked)
            self.gram.add_rows(name, rows if counted.all() else rows[counted])
            last = self._gram_inputs[member] = inputs, name
        self.gram.share(name, last[1])

    def linears(self) -> dict[str, NDArray[np.float64]]:
        """{running name: squared inputs float64 [N]}, added in the order of the members."""
        return {name: sum(part[name] for part in self._linears) for name in self._linears[0]}  # type: ignore[misc]

    def observations(self) -> Observations:
        """What the experts did, assignment by assignment."""
        if self._assignments is None:
            return _NOTHING
        token, slot, gate, _ = self._assignments
        return Observations(
            token.numpy(),
            self._owner,
            gate.double().numpy(),
            self._norms,
            self._largest,
            reference_gates(self._all_scores, self._experts)[token, slot].double().numpy(),
        )


def reference_gates(scores: Tensor, experts: Tensor) -> Tensor:
    """float32 [T, K]: softmax of the router's scores over the chosen experts.

    The routing weight of the REAP reference (Cerebras reap, pruning_metrics.py, renormalised): no
    bias, scale or correction. Taken over the model's own choice, which is the reference's own for
    softmax routers. `scores` [T, E] are logits or log-probabilities, `experts` int64 [T, K].
    """
    return torch.softmax(scores.float().gather(-1, experts), -1)
