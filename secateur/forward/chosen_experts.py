"""Which experts every token chose, noted while a model runs.

Shapes: N tokens of interest, L layers that have experts, K chosen per token, T tokens of a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.forward.batches import Group
from secateur.forward.expert_work import Assignments, Tile

_FEW = 256
"""Experts up to which a byte holds an expert's number."""


class Wanted(NamedTuple):
    """Tokens of a micro-batch whose experts are noted (n of them)."""

    token: NDArray[np.intp]
    """[n]: their numbers among all tokens of interest"""
    position: Tensor
    """int64 [n]: where they are in the flattened micro-batch"""


class ChosenTable(NamedTuple):
    """The experts that N tokens chose."""

    layers: tuple[int, ...]
    """The L layers that have experts."""
    experts: NDArray[np.integer[Any]]
    """uint8 or int16 [N, L, K], in no order"""


@dataclass
class ChosenExperts:
    """Notes the experts of some tokens. `wanted` is {index of a micro-batch: its tokens}.

    Nothing is asked of a device before `table`. Peak memory: L * K bytes per token (two for more
    than 256 experts), and once more in `table`.
    """

    wanted: Mapping[int, Wanted]
    experts: int
    _noted: dict[int, list[tuple[NDArray[np.intp], Tensor]]] = field(default_factory=dict)

    def observer(self, layer: int, group: Group, masks: Sequence[Tensor]) -> _Observer:
        """What sees a group in a layer; `masks` bool [B, L] are of the tokens that count."""
        tokens, positions, first = [], [], 0
        for batch in group:
            found = self.wanted[batch.index]
            tokens.append(found.token)
            positions.append(found.position + first)
            first += batch.input_ids.numel()
        mask = torch.cat([mask.reshape(-1) for mask in masks])
        return _Observer(self, layer, np.concatenate(tokens), torch.cat(positions), mask)

    def note(self, layer: int, token: NDArray[np.intp], chosen: Tensor) -> None:
        """Keep the experts [n, K] of tokens [n] in a layer."""
        small = chosen.to(torch.uint8 if self.experts <= _FEW else torch.int16)
        self._noted.setdefault(layer, []).append((token, small))

    def table(self, tokens: int) -> ChosenTable:
        """What was noted, of all tokens."""
        layers = tuple(sorted(self._noted))
        chosen = self._noted[layers[0]][0][1].shape[-1] if layers else 0
        dtype = np.uint8 if self.experts <= _FEW else np.int16
        found = np.empty((tokens, len(layers), chosen), dtype)
        for place, layer in enumerate(layers):
            for token, part in self._noted.pop(layer):
                found[token, place] = part.cpu().numpy()
        return ChosenTable(layers, found)


@dataclass(frozen=True)
class _Observer:
    """Sees one group in one layer (forward.expert_work.ExpertObserver)."""

    notes: ChosenExperts
    layer: int
    token: NDArray[np.intp]
    position: Tensor
    mask: Tensor

    def on_dispatch(
        self, hidden: Tensor, experts: Tensor, routing_weights: Tensor, assignments: Assignments
    ) -> None:
        position = self.position.to(experts.device, non_blocking=True)
        self.notes.note(self.layer, self.token, experts.index_select(0, position))

    def on_tile(self, tile: Tile) -> None:
        """Nothing: which experts were chosen is all that is noted."""
