"""Points of a codebook, signs and scales of rows, chosen with error feedback (see factor.py).

A group of 4 or 8 columns is one point, so what is fed back goes from group to group. The points
tried are those nearest to the lattice's point at which the group's targets are; of the scales that
are tried for a block the one stays whose points cost least.

Shapes: R rows, C columns, G blocks that share a scale.
"""

from __future__ import annotations

import numpy as np

from secateur.rounding.blas import one_blas_thread
from secateur.rounding.codebook_kernels import (
    Chosen,
    Codebook,
    ColumnCosts,
    Trials,
    choose_columns,
)
from secateur.rounding.factor import Factor
from secateur.rounding.grid import Floats

COLUMNS = 128
"""Columns between two products that bring in the feedback of all before them."""


def choose_points(rows: Floats, trials: Trials, book: Codebook, factor: Factor) -> Chosen:
    """Points, signs and trials of rows float32 [R, C].

    Peak memory: four times the rows, in float32. The same rows give the same numbers.
    """
    count, columns = rows.shape
    blocks = trials.scales.shape[2]
    n = columns // blocks
    dims = book.dims
    across = np.ascontiguousarray(rows[:, factor.order])
    errors = np.zeros_like(across)
    found = Chosen(
        np.zeros((count, columns // dims), np.uint16),
        np.zeros((count, columns // 8), np.uint8),
        np.zeros((count, blocks), np.int64),
    )
    groups = (factor.order[::n] // n).astype(np.int64)
    of = ColumnCosts(factor.feedback, factor.weight, _weigh_alone(factor), groups)
    with one_blas_thread():
        for first in range(0, columns, COLUMNS):
            last = min(first + COLUMNS, columns)
            wanted = across[:, first:last]
            if first:
                wanted = wanted + errors[:, :first] @ factor.feedback[:first, first:last]
            choose_columns(across, errors, wanted, trials, of, first, book, found)
    return found


def _weigh_alone(factor: Factor) -> Floats:
    """[C]: of every column what an error in it costs in the columns of its eight."""
    eights = factor.weight.reshape(-1, 8)
    found = np.empty_like(eights)
    for number, weight in enumerate(eights):
        part = slice(8 * number, 8 * number + 8)
        inside = np.triu(factor.feedback[part, part])
        np.fill_diagonal(inside, 1)
        found[number] = (inside * inside) @ weight
    return found.reshape(-1)
