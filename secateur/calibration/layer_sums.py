"""The exact sums of one layer, by name.

The built-in sums are added by one compiled loop over the assignments of a group, and then exactly
(statistics.exact) to those of the groups before it.

Shapes: T tokens of a group, P assignments, C categories, E experts, S samples (documents).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from secateur.calibration.documents import Documents
from secateur.calibration.gram_sums import GramSums
from secateur.calibration.group_observer import GroupObserver
from secateur.calibration.observers.base import Observations, Observer
from secateur.calibration.token_sample import Drawn
from secateur.errors import NumericError
from secateur.forward.batches import Group
from secateur.statistics import exact
from secateur.statistics.statistics import array_name
from secateur.statistics.sums import BUILT_IN, Array, Kind, shape_of
from secateur.system.jit import compiled


class _Totals(NamedTuple):
    """What the loop adds to, all [C, E], called as in BUILT_IN."""

    tokens: NDArray[np.int64]
    gate: NDArray[np.float64]
    norm: NDArray[np.float64]
    gate_norm: NDArray[np.float64]
    squared_norm: NDArray[np.float64]
    reference_gate: NDArray[np.float64]
    reference_gate_norm: NDArray[np.float64]
    largest: NDArray[np.float32]


class ExpertNames(NamedTuple):
    """The running names of the matrices of a layer's experts: those that see the hidden states, and
    the down projections."""

    first: str
    down: str


class LayerSums:
    """The sums of one layer over all groups so far."""

    def __init__(
        self, layer: int, documents: Documents, experts: int, observers: Sequence[Observer]
    ) -> None:
        self._layer = layer
        self._documents = documents
        self._experts = experts
        self._observers = observers
        self._kinds = list_kinds(observers)
        sizes = len(documents.corpus.categories), experts, len(documents.samples)
        self._arrays: dict[str, Array] = {
            name: np.zeros(shape_of(kind, *sizes), np.float32 if kind == "largest" else np.int64)
            for name, kind in self._kinds.items()
        }
        self.categories = sizes[0]
        self._squares: dict[str, exact.Limbs] = {}
        self._behind: dict[str, NDArray[np.int64]] = {}

    def observe(
        self,
        group: Group,
        masks: Sequence[Tensor],
        drawn: Mapping[int, Drawn],
        gram: GramSums | None,
    ) -> GroupObserver:
        """What notes the experts' work on a group."""
        return GroupObserver(group, masks, self._experts, drawn, self._observers, gram)

    def add(self, observer: GroupObserver, names: ExpertNames | None) -> None:
        """Add what was noted of a group; `names` are those of its experts' matrices. Raises
        NumericError for NaN and infinity."""
        if names is not None:
            self._add_assignments(observer)
            self._add_squares(names.first, observer.outer_squares, observer.tokens)
            if observer.inner_squares.size:
                self._add_squares(names.down, observer.inner_squares, observer.tokens)
        unmasked = int(observer.mask.sum())
        for name, squares in observer.linears().items():
            self._add_squares(name, squares[None], [unmasked])

    def _add_assignments(self, observer: GroupObserver) -> None:
        seen = observer.observations()
        finite = np.isfinite(seen.gate * seen.norm)
        if not finite.all():
            raise self._bad_token(observer, seen, np.flatnonzero(~finite))
        owners = self._documents.owners(observer.group)
        arrays = self._arrays
        totals = _Totals(**{name: self._begin(name) for name in BUILT_IN})
        _sum_assignments(seen, owners.category, totals)
        for name, kind in BUILT_IN.items():
            if kind == "sum":
                arrays[name] = exact.add(arrays[name], exact.limbs(getattr(totals, name)))
        for one, rows in zip(self._observers, observer.measured, strict=True):
            arrays[one.name] = one.add(arrays[one.name], seen, rows, owners)

    def _begin(self, name: str) -> Array:
        """[C, E]: what a group's assignments are added to; exact sums begin at 0 for each group."""
        array = self._arrays[name]
        return np.zeros(array.shape[1:]) if BUILT_IN[name] == "sum" else array

    def _add_squares(self, name: str, squares: NDArray[np.float64], tokens: ArrayLike) -> None:
        """Add squared inputs [M, N] of the matrices called `name`, seen by `tokens` [M]."""
        values = exact.limbs(squares)
        behind = np.asarray(tokens, np.int64)
        if name in self._squares:
            values = exact.add(self._squares[name], values)
            behind = self._behind[name] + behind
        self._squares[name], self._behind[name] = values, behind

    def arrays(self, routed: bool) -> dict[str, Array]:
        """The layer's part of the statistics; without experts' sums when it has none."""
        named: dict[str, Array] = {}
        if routed:
            named |= {array_name(self._layer, name): self._arrays[name] for name in self._kinds}
        for name, squares in self._squares.items():
            named[f"imatrix.{name}.sums"] = squares
            named[f"imatrix.{name}.tokens"] = self._behind[name]
        return named

    def _bad_token(
        self, observer: GroupObserver, seen: Observations, bad: NDArray[np.int64]
    ) -> NumericError:
        first = bad[np.argmin(seen.token[bad])]
        sample = self._documents.describe(observer.group, int(seen.token[first]))
        return NumericError(
            f"layer {self._layer}, expert {seen.expert[first]} gave NaN or infinity for a token of "
            f"sample {sample}: mend the weights, or leave such tokens out with --on-nan skip"
        )


def list_kinds(observers: Sequence[Observer]) -> dict[str, Kind]:
    """{name: kind} of the built-in sums and those of the observers."""
    return {**BUILT_IN, **{one.name: one.kind for one in observers}}


@compiled
def _sum_assignments(seen: Observations, category: NDArray[np.int64], totals: _Totals) -> None:
    """Add the assignments, one after the other; `category` [T] is the tokens'."""
    for p in range(len(seen.token)):
        place = category[seen.token[p]], seen.expert[p]
        gate, norm, reference = seen.gate[p], seen.norm[p], seen.reference_gate[p]
        totals.tokens[place] += 1
        totals.largest[place] = max(totals.largest[place], seen.largest[p])
        totals.gate[place] += gate
        totals.norm[place] += norm
        totals.gate_norm[place] += gate * norm
        totals.squared_norm[place] += norm * norm
        totals.reference_gate[place] += reference
        totals.reference_gate_norm[place] += reference * norm
