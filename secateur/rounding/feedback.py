"""Codes of rows on given scales, with error feedback (see factor.py for what is minimised).

Columns go in blocks: what the blocks before one add to it is one matrix product, and inside a
block a compiled loop takes column after column. Rows do not depend on each other; a loop takes
LANES of them at a time, in the processor's SIMD units.

Shapes: R rows, C columns, G groups of columns that share a scale. All is [columns, rows] inside.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.rounding.blas import one_blas_thread
from secateur.rounding.factor import Factor
from secateur.rounding.grid import Codes, E, Floats, Grid, Levels, Scales
from secateur.system.jit import compiled

LANES = 64
"""Rows that a loop takes at once."""

COLUMNS = 64
"""Columns of a block: enough for a product to be fast, few against all that it takes in."""


def round_with_feedback(rows: Floats, encoded: E, grid: Grid[E], factor: Factor) -> E:
    """Encoded rows [R, C] with the same scales and codes that make up for each other's errors.

    Peak memory: four times the rows, in float32. The same rows give the same bytes.
    """
    scales = grid.scales(encoded, rows.shape[1])
    return grid.with_codes(encoded, choose_codes(rows, scales, grid.levels, factor))


def choose_codes(rows: Floats, scales: Scales, levels: Levels, factor: Factor) -> Codes:
    """uint8 [R, C]: places among the levels, column by column in the order of the factor."""
    count, columns = rows.shape
    group = columns // scales.scale.shape[1]
    lanes = -(-count // LANES) * LANES
    block = _Block(
        _lay_across(rows, lanes)[factor.order],
        np.zeros((columns, lanes), np.float32),
        np.zeros((columns, lanes), np.uint8),
        _lay_across(scales.scale, lanes),
        _lay_across(scales.offset, lanes),
        (factor.order // group).astype(np.int64),
    )
    middles = (levels.values[1:] + levels.values[:-1]) / np.float32(2)
    with one_blas_thread():
        for first in range(0, columns, COLUMNS):
            last = min(first + COLUMNS, columns)
            wanted = block.rows[first:last]
            if first:
                wanted = wanted + factor.feedback[:first, first:last].T @ block.errors[:first]
            _choose(block, wanted, factor.feedback, first, levels.values, middles, levels.uniform)
    codes = np.empty((count, columns), np.uint8)
    codes[:, factor.order] = block.codes[:, :count].T
    return codes


class _Block(NamedTuple):
    """Rows on their way; columns are in the order of the factor, groups in that of the file."""

    rows: Floats
    errors: Floats
    """[C, lanes]: rows minus what their codes stand for, of the columns that are done"""
    codes: Codes
    scale: Floats
    """[G, lanes]"""
    offset: Floats
    group_of: NDArray[np.int64]
    """[C]"""


def _lay_across(values: Floats, lanes: int) -> Floats:
    """[columns, lanes] of [rows, columns], zeros behind the rows."""
    across = np.zeros((values.shape[1], lanes), np.float32)
    across[:, : len(values)] = values.T
    return across


@compiled
def _choose(  # noqa: PLR0912 - a kernel has its loops
    block: _Block,
    wanted: Floats,
    feedback: Floats,
    first: int,
    levels: Floats,
    middles: Floats,
    uniform: bool,
) -> None:
    """Codes and errors of a block's columns; `wanted` [columns of it, lanes] has the feedback of
    all columns before `first`."""
    one, zero = np.float32(1), np.float32(0)
    most = np.float32(len(levels) - 1)
    aim, place = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for lane in range(0, wanted.shape[1], LANES):
        for j in range(wanted.shape[0]):
            column = first + j
            group = block.group_of[column]
            for k in range(LANES):
                aim[k] = wanted[j, lane + k]
            for i in range(first, column):
                share = feedback[i, column]
                for k in range(LANES):
                    aim[k] += block.errors[i, lane + k] * share
            for k in range(LANES):
                scale = block.scale[group, lane + k]
                inverse = one / scale if scale != zero else zero
                aim[k] = (aim[k] - block.offset[group, lane + k]) * inverse
            if uniform:
                for k in range(LANES):
                    at = np.rint(aim[k] - levels[0])
                    at = most if at > most else at
                    place[k] = at if at > zero else zero
            else:
                for k in range(LANES):
                    place[k] = zero
                for m in range(len(middles)):
                    for k in range(LANES):
                        place[k] += one if aim[k] > middles[m] else zero
            for k in range(LANES):
                code = np.uint8(place[k])
                block.codes[column, lane + k] = code
                number = block.scale[group, lane + k] * levels[code] + block.offset[group, lane + k]
                block.errors[column, lane + k] = block.rows[column, lane + k] - number
