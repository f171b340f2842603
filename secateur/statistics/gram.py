"""Gram matrices of the inputs of linear layers, as exact sums.

G = X^T X [C, C] of the inputs X [T, C] says what an error in one column of a weight is worth in
another (rounding.factor). It is symmetric: kept are panels of STEP columns with the rows above and
beside their diagonal. Sums are integers, in units of UNIT: what a micro-batch adds is rounded once,
by at most 2**-17, so that parts of a corpus and machines merge to the same bits in any order. A sum
may grow to 7e13.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

GramKind = Literal["shared", "own"]
"""What has a matrix: the inputs that linear layers or a layer's experts share, or every expert's
inner inputs as well (what its `down` sees). These have nothing in common from one expert to the
next: with the mean of their matrices, 4 bits were worse than to nearest (docs/log.md)."""

UNIT = 2.0**-16
STEP = 128
"""What lies below the diagonal in a panel is computed and kept for nothing; narrower ones make
slower products."""
Sums = NDArray[np.int64]


class Panel(NamedTuple):
    """Columns `first:last` of the rows before `last`; at `place` among the numbers of a matrix."""

    first: int
    last: int
    place: slice


def panels(columns: int) -> Iterator[Panel]:
    """The panels of a matrix, in the order in which they are stored."""
    start = 0
    for first in range(0, columns, STEP):
        last = min(first + STEP, columns)
        size = last * (last - first)
        yield Panel(first, last, slice(start, start + size))
        start += size


def stored_numbers(columns: int) -> int:
    """Numbers that are kept of a matrix [columns, columns]."""
    return sum(panel.last * (panel.last - panel.first) for panel in panels(columns))


def whole_matrix(sums: Sums, columns: int, dtype: DTypeLike = np.float64) -> NDArray[np.floating]:
    """[C, C] of stored sums [stored_numbers(C)]; only its upper triangle counts."""
    whole = np.zeros((columns, columns), dtype)
    for panel in panels(columns):
        values = sums[panel.place].reshape(panel.last, -1)
        whole[: panel.last, panel.first : panel.last] = values * UNIT
    return whole


def stored_sums(matrix: NDArray[np.floating]) -> Sums:
    """What is stored of a whole matrix [C, C]."""
    parts = [matrix[: p.last, p.first : p.last].reshape(-1) for p in panels(len(matrix))]
    return np.rint(np.concatenate(parts).astype(np.float64) / UNIT).astype(np.int64)
