"""Gram matrices of a layer's inputs, added up on the device that runs it.

The sums of gram_sums: products in float32, of 16-bit inputs as they are, become integers where they
are made, and are added there. They come to the host once, when the layer is through.

Shapes: n rows of C inputs, M matrices (1, or one for each expert).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.calibration.gram_sums import LARGEST, CountedInputs, too_large
from secateur.forward.backends.host_copy import HostCopy
from secateur.statistics.added_grams import InputSums, LayerGrams
from secateur.statistics.gram import UNIT, panels, stored_numbers

TOGETHER = 32 << 20
"""Numbers of products that become integers at once."""


@dataclass
class _Input:
    sums: Tensor
    """int64 [M, stored_numbers(C)]"""
    tokens: list[int]
    """[M]"""
    columns: int
    places: Tensor
    """[stored_numbers(C)]: where what is stored lies in a product"""
    bound: Tensor
    """float32 []: no sum is larger; NaN where a product was"""


@dataclass
class DeviceGramSums(CountedInputs):
    """What one layer's linear layers saw; as GramSums, for one thread."""

    _inputs: dict[str, _Input] = field(default_factory=dict, repr=False)

    def add_rows(self, name: str, rows: Tensor) -> None:
        """Add inputs [n, C] of the linear layer `name`."""
        self._add(self._begin(name, rows, 1), [rows])

    def add_inner(self, rows: Tensor, counts: Sequence[int]) -> None:
        """Add what the experts' `down` saw: [n, C], `counts` rows of each expert in turn."""
        found = self._begin(self.inner_name, rows, self.experts)
        self._add(found, torch.split(rows, list(counts)))

    def merge(self, other: DeviceGramSums) -> None:
        """Add another group's sums."""
        for name, more in other._inputs.items():
            mine = self._inputs.setdefault(name, more)
            if mine is not more:
                mine.sums += more.sums
                mine.tokens = [a + b for a, b in zip(mine.tokens, more.tokens, strict=True)]
                mine.bound = mine.bound + more.bound
        self.shared_by.update(other.shared_by)

    def fetch(self) -> Callable[[], LayerGrams]:
        """Begin to copy the sums to the host; what is returned waits for them, in any thread, and
        raises NumericError where they are too large."""
        inputs = sorted(self._inputs.items())
        copies = [(HostCopy(one.sums), HostCopy(one.bound)) for _, one in inputs]

        def layer() -> LayerGrams:
            found = {}
            for (name, one), (sums, bound) in zip(inputs, copies, strict=True):
                if not bool(bound.wait() < LARGEST):
                    raise too_large(name)
                tokens = np.array(one.tokens, np.int64)
                found[name] = InputSums(sums.wait().numpy(), tokens, one.columns)
            return LayerGrams(found, self.shared_by)

        return layer

    def _begin(self, name: str, rows: Tensor, matrices: int) -> _Input:
        self.shared_by.setdefault(name, name)
        if name not in self._inputs:
            columns, where = rows.shape[-1], rows.device
            sums = torch.zeros(matrices, stored_numbers(columns), dtype=torch.int64, device=where)
            bound = torch.zeros((), device=where)
            places = _places(columns, where)
            self._inputs[name] = _Input(sums, [0] * matrices, columns, places, bound)
        return self._inputs[name]

    def _add(self, found: _Input, parts: Sequence[Tensor]) -> None:
        """Add the products of M parts of rows with themselves."""
        size = found.columns
        together = max(1, TOGETHER // size**2)
        for first in range(0, len(parts), together):
            some = parts[first : first + together]
            products = torch.empty(len(some), size, size, device=found.sums.device)
            for product, rows in zip(products, some, strict=True):
                _multiply(rows, product)
            products.mul_(1 / UNIT).round_()
            # An integer beyond what 64 bits hold would wrap around: whoever fetches them is told.
            low, high = torch.aminmax(products)
            found.bound = found.bound + torch.maximum(-low, high)
            stored = products.view(len(some), -1).index_select(1, found.places)
            found.sums[first : first + len(some)] += stored.long()
        found.tokens = [n + len(rows) for n, rows in zip(found.tokens, parts, strict=True)]


def _places(columns: int, where: torch.device) -> Tensor:
    kind = torch.int32 if columns**2 < 1 << 31 else torch.int64
    numbers = torch.arange(columns**2, dtype=kind, device=where).view(columns, columns)
    return torch.cat(
        [numbers[: panel.last, panel.first : panel.last].reshape(-1) for panel in panels(columns)]
    )


def _multiply(rows: Tensor, product: Tensor) -> None:
    """product [C, C] = rows^T rows, summed in float32."""
    if rows.device.type == "cuda" and rows.dtype.itemsize < product.dtype.itemsize:
        multiply: Any = torch.mm
        multiply(rows.T, rows, out_dtype=product.dtype, out=product)
    else:
        rows = rows.float()
        torch.mm(rows.T, rows, out=product)
