"""Gram matrices of a layer's inputs, added up while groups of micro-batches go through it.

Products are float32, in one thread each; they are added as integers (statistics.gram), so that
results depend neither on threads nor on how groups are divided.

Shapes: n rows of C inputs, M matrices (1, or one for each expert).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.errors import NumericError
from secateur.statistics.added_grams import InputSums, LayerGrams
from secateur.statistics.gram import UNIT, GramKind, Sums, panels, stored_numbers
from secateur.system.jit import compiled

LARGEST = 1 << 62
"""No sum may reach it, in units."""
FITS = 4e18
"""Nor what a product adds, which may be NaN."""


@dataclass
class CountedInputs:
    """Whose inputs are added up, and what of them.

    `shared_by` gives for every linear layer the name under which its input is: that of the first
    with this input. `chosen` {micro-batch: bool [tokens]} are the tokens that count; None: all. The
    experts' weights are `outer_name`, which see the layer's input, and `inner_name`, whose inputs
    all count: few tokens come to an expert.
    """

    kind: GramKind
    chosen: Mapping[int, Tensor] | None = None
    experts: int = 0
    outer_name: str = ""
    inner_name: str = ""
    shared_by: dict[str, str] = field(default_factory=dict)

    def counted(self, batch: int, unmasked: Tensor) -> Tensor:
        """bool [tokens]: those of a micro-batch that are not masked, and chosen."""
        return unmasked if self.chosen is None else unmasked & self.chosen[batch]

    @property
    def of_each_expert(self) -> bool:
        """Whether what the experts' `down` saw is to be added."""
        return self.kind == "own"

    def share(self, name: str, first: str) -> None:
        """Note that `name` sees what `first` saw."""
        self.shared_by[name] = first


@dataclass
class GramSums(CountedInputs):
    """What one layer's linear layers saw, of all groups so far, or of one that may be run again.

    `inputs` are by the names of `shared_by`. Any thread may add.
    """

    inputs: dict[str, InputSums] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _panel_locks: tuple[threading.Lock, ...] = field(
        default_factory=lambda: tuple(threading.Lock() for _ in range(64)), repr=False
    )

    def add_rows(self, name: str, rows: Tensor) -> None:
        """Add float32 inputs [n, C] of the linear layer `name`."""
        found = self._begin(name, rows.shape[-1], 1)
        self._add_product(name, found, 0, rows)

    def add_inner(self, rows: Tensor, owner: NDArray[np.int64]) -> None:
        """Add what the experts' `down` saw: [n, C], sorted by their experts `owner` [n]."""
        name = self.inner_name
        found = self._begin(name, rows.shape[-1], self.experts)
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        for first, last in zip(starts, [*starts[1:], len(owner)], strict=True):
            self._add_product(name, found, int(owner[first]), rows[first:last])

    def merge(self, other: GramSums) -> None:
        """Add another group's sums."""
        for name, (sums, tokens, columns) in other.inputs.items():
            mine = self._begin(name, columns, len(tokens))
            np.add(mine.sums, sums, out=mine.sums)
            np.add(mine.tokens, tokens, out=mine.tokens)
            if max(int(mine.sums.max()), -int(mine.sums.min())) >= LARGEST:
                raise too_large(name)
        self.shared_by.update(other.shared_by)

    def fetch(self) -> Callable[[], LayerGrams]:
        """What gives the sums, in an order that does not depend on threads."""
        return lambda: LayerGrams(dict(sorted(self.inputs.items())), self.shared_by)

    def _begin(self, name: str, columns: int, matrices: int) -> InputSums:
        with self._lock:
            self.shared_by.setdefault(name, name)
            if name not in self.inputs:
                self.inputs[name] = InputSums(
                    np.zeros((matrices, stored_numbers(columns)), np.int64),
                    np.zeros(matrices, np.int64),
                    columns,
                )
            return self.inputs[name]

    def _add_product(self, name: str, found: InputSums, number: int, rows: Tensor) -> None:
        for place, panel in enumerate(panels(found.columns), start=number):
            product = torch.mm(rows[:, : panel.last].T, rows[:, panel.first : panel.last])
            values = product.reshape(-1).numpy()
            with self._panel_locks[place % len(self._panel_locks)]:
                fits = _add_rounded(found.sums[number, panel.place], values)
            if not fits:
                raise too_large(name)
        with self._lock:
            found.tokens[number] += len(rows)


def too_large(name: str) -> NumericError:
    """That the inputs `name` have no sums."""
    return NumericError(
        f"the inputs of {name!r} are too large, or NaN, for their Gram matrix: calibrate with "
        "--gram none, or mend the checkpoint"
    )


@compiled
def _add_rounded(total: Sums, values: NDArray[np.float32]) -> bool:
    """total += values in units, each rounded; False where one is NaN, or one or a sum too large."""
    bad = np.int64(0)
    for i in range(len(total)):
        value = np.float64(values[i]) / UNIT
        inside = abs(value) < FITS
        total[i] += np.int64(np.rint(value if inside else 0.0))
        bad |= np.int64(not inside) | np.int64(abs(total[i]) >= LARGEST)
    return bool(bad == 0)
