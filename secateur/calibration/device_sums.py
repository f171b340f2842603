"""The exact sums of one layer by name, kept on the device that runs it.

The same arrays as layer_sums makes. Every number of an assignment becomes a fixed-point number
(statistics.exact) where it is, and integers are added: any order gives the same sum. They come to
the host once, when the layer is through.

Shapes: T tokens of a group, P assignments, C categories, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from secateur.calibration.device_gram_sums import DeviceGramSums
from secateur.calibration.device_observer import DeviceObserver
from secateur.calibration.documents import Documents
from secateur.calibration.layer_sums import ExpertNames, list_kinds
from secateur.calibration.observers.base import Observer
from secateur.calibration.token_sample import Drawn
from secateur.errors import NumericError
from secateur.forward.batches import Group
from secateur.statistics import exact
from secateur.statistics.statistics import array_name
from secateur.statistics.sums import BUILT_IN, Array, shape_of

_EXACT = [name for name, kind in BUILT_IN.items() if kind == "sum"]


class DeviceSums:
    """The sums of one layer over all groups so far."""

    def __init__(
        self,
        layer: int,
        documents: Documents,
        experts: int,
        observers: Sequence[Observer],
        device: torch.device,
    ) -> None:
        self._layer = layer
        self._documents = documents
        self._observers = observers
        self._device = device
        # MPS has no float64, which the fixed-point numbers are made of.
        self._where = torch.device("cpu") if device.type == "mps" else device
        self.categories, self._experts = len(documents.corpus.categories), experts
        cells = self.categories * experts
        self._sums = torch.zeros(2, cells, len(_EXACT), dtype=torch.int64, device=self._where)
        self._tokens = torch.zeros(cells, dtype=torch.int64, device=self._where)
        self._largest = torch.zeros(cells, device=self._where)
        self._squares: Tensor | None = None
        self._places: dict[str, tuple[int, tuple[int, int]]] = {}
        self._behind: dict[str, Tensor] = {}
        self._beyond = torch.zeros((), device=self._where)
        sizes = self.categories, experts, len(documents.samples)
        self._own: dict[str, Array] = {
            one.name: np.zeros(
                shape_of(one.kind, *sizes), np.float32 if one.kind == "largest" else np.int64
            )
            for one in observers
        }

    def observe(
        self,
        group: Group,
        masks: Sequence[Tensor],
        drawn: Mapping[int, Drawn],
        gram: DeviceGramSums | None,
    ) -> DeviceObserver:
        """What notes the experts' work on a group."""
        return DeviceObserver(group, masks, drawn, self._observers, self._device, gram)

    def add(self, observer: DeviceObserver, names: ExpertNames | None) -> None:
        """Add what was noted of a group; `names` are those of its experts' matrices."""
        unmasked = torch.tensor([int(observer.mask.sum())])
        squares = {name: one[None] for name, one in observer.linears.items()}
        behind = dict.fromkeys(squares, unmasked)
        if names is not None:
            self._add_assignments(observer)
            squares |= {names.first: observer.outer_squares, names.down: observer.inner_squares}
            behind |= {names.first: observer.tokens, names.down: observer.tokens}
        self._add_squares(squares, behind)
        if names is not None and self._observers:
            seen, owners = observer.observations(), self._documents.owners(observer.group)
            for one, rows in zip(self._observers, observer.measured(), strict=True):
                self._own[one.name] = one.add(self._own[one.name], seen, rows, owners)

    def arrays(self, routed: bool) -> dict[str, Array]:
        """The layer's part of the statistics; waits for the device. Raises NumericError when a
        number was too large, infinite or NaN."""
        if (beyond := float(self._beyond)) != 0:
            raise NumericError(
                f"layer {self._layer}: a statistic of {beyond} cannot be summed (NaN, infinity, or "
                f"{exact.LARGEST:.3g} and more): the activations overflow"
            )
        named: dict[str, Array] = {}
        if routed:
            shape = self.categories, self._experts
            sums = self._sums.cpu().numpy()
            own = {**self._own, "tokens": self._tokens.cpu().numpy().reshape(shape)}
            own["largest"] = self._largest.cpu().numpy().reshape(shape)
            for column, name in enumerate(_EXACT):
                own[name] = np.ascontiguousarray(sums[..., column]).reshape(2, *shape)
            order = list_kinds(self._observers)
            named |= {array_name(self._layer, name): own[name] for name in order}
        squares = None if self._squares is None else self._squares.cpu().numpy()
        for name, (start, shape) in self._places.items():
            assert squares is not None
            part = squares[:, start : start + shape[0] * shape[1]]
            named[f"imatrix.{name}.sums"] = np.ascontiguousarray(part).reshape(2, *shape)
            named[f"imatrix.{name}.tokens"] = self._behind[name].cpu().numpy()
        return named

    def _add_assignments(self, observer: DeviceObserver) -> None:
        assert observer.assignments is not None
        token, _, gate, counts = observer.assignments
        category = torch.from_numpy(self._documents.owners(observer.group).category)
        owner = category.to(token.device, non_blocking=True)[token]
        numbers = torch.arange(self._experts, device=token.device)
        expert = torch.repeat_interleave(numbers, counts, output_size=len(token))
        place = (owner * self._experts + expert).to(self._where)
        columns = gate, observer.norms, observer.reference, observer.largest
        gate, norm, reference, largest = (part.to(self._where) for part in columns)
        gate, norm, reference = gate.double(), norm.double(), reference.double()
        values = {
            "gate": gate,
            "norm": norm,
            "gate_norm": gate * norm,
            "squared_norm": norm * norm,
            "reference_gate": reference,
            "reference_gate_norm": reference * norm,
        }
        limbs = self._limbs(torch.stack([values[name] for name in _EXACT], -1))
        for total, part in zip(self._sums, limbs, strict=True):
            total.index_add_(0, place, part)
        _carry(self._sums)
        self._tokens.index_add_(0, place, torch.ones_like(place))
        self._largest.scatter_reduce_(0, place, largest, "amax")

    def _add_squares(self, squares: Mapping[str, Tensor], tokens: Mapping[str, Tensor]) -> None:
        """Add squared inputs [M, N] of matrices by name, seen by `tokens` [M]: as one vector, in
        which what several matrices share is once."""
        shared: dict[int, tuple[int, Tensor]] = {}
        size = 0
        for name, one in squares.items():
            # Of [1, N] views of one tensor, the memory tells.
            if one.data_ptr() not in shared:
                shared[one.data_ptr()] = size, one
                size += one.numel()
            self._places[name] = shared[one.data_ptr()][0], (one.shape[0], one.shape[1])
            known = self._behind.get(name)
            self._behind[name] = tokens[name] if known is None else known + tokens[name]
        flat = torch.cat([one.reshape(-1) for _, one in shared.values()])
        limbs = self._limbs(flat.to(self._where).double())
        self._squares = limbs if self._squares is None else _carry(limbs.add_(self._squares))

    def _limbs(self, values: Tensor) -> Tensor:
        """int64 [2, ...] of float64 values: `exact.limbs`, where the values are."""
        inside = values.abs() < exact.LARGEST  # false for NaN
        worst = torch.where(inside, 0.0, values).abs().nan_to_num(torch.inf).amax()
        self._beyond = torch.maximum(self._beyond, worst.float())
        values = torch.where(inside, values, 0.0)
        high = torch.floor(values / exact.HIGH_UNIT)
        low = torch.round((values - high * exact.HIGH_UNIT) / exact.LOW_UNIT)
        return _carry(torch.stack([high.long(), low.long()]))


def _carry(sums: Tensor) -> Tensor:
    """One representation per value, in place (`exact.add` has the same)."""
    carry = sums[1] >> exact.LOW_BITS
    sums[0] += carry
    sums[1] -= carry << exact.LOW_BITS
    return sums
