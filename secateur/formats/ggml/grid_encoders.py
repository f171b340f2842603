"""SIMD encoders of the i-quants of 2 and 3 bits: ggml's bytes, several times as fast.

Each takes rows float32 [R, C] and the importance of the columns [C] or None, and returns uint8
[R, bytes of a row]. Groups of 4 or 8 magnitudes are points of a codebook, their signs lie apart;
blocks of 16 or 32 numbers share a scale, a code of 4 bits times the superblock's. Layouts:
ggml-common.h of llama.cpp 0c1e57098. Where sums overflow float32 the scales are not finite, and
the rows are refused (codec.encode); ggml itself stops the process.

S superblocks of 256 numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from secateur.formats.ggml.codebooks import Codebook, read_codebook
from secateur.formats.ggml.grid_kernels import (
    ALL_IF_ONE_OFF,
    ALWAYS,
    WHERE_OFF,
    Blocks,
    GridSearch,
    Weighing,
    prepare_blocks,
    search_grid,
)
from secateur.formats.ggml.grid_layout import GRID_LAYOUTS, SUPER, GridLayout, GridParts
from secateur.formats.ggml.scale_kernels import fit_positive, sum_squares
from secateur.formats.ggml.search_kernels import Codes, F, Floats

_NONE = np.empty(0, F)


@dataclass(frozen=True)
class _GridType:
    """How a type is encoded. `factor` times the mean square of a superblock goes into the weights
    (`share` of that, without an importance); blocks whose numbers are all below `smallest` count
    as zeros; `fudge` is ggml's factor of the superblock's scale."""

    layout: GridLayout
    shells: int
    search: GridSearch
    factor: float = 1.0
    share: float = 0.0
    fitted: bool = False
    """whether the scales tried are those around a first fit, not around the largest number's"""
    empties: bool = True
    """whether a superblock without a scale is all zero bytes"""
    closes_gaps: bool = False
    """whether points and signs move up to where a block of zeros stood (see `_close_gaps`)"""
    smallest: float = 1e-8
    fudge: float = 1.0


_TYPES: Mapping[str, _GridType] = {
    "IQ3_XXS": _GridType(
        GRID_LAYOUTS["IQ3_XXS"], 2, GridSearch(32, F(15), -15, 31, F(0.2), WHERE_OFF),
        factor=2, fudge=1.0125,
    ),
    "IQ3_S": _GridType(
        GRID_LAYOUTS["IQ3_S"], 3, GridSearch(32, F(15), -9, 19, F(0.2), ALL_IF_ONE_OFF, True),
        factor=2, empties=False, closes_gaps=True, smallest=0, fudge=1.033,
    ),
    "IQ2_XXS": _GridType(
        GRID_LAYOUTS["IQ2_XXS"], 2, GridSearch(32, F(5), -6, 13, F(0.1), ALWAYS),
        fitted=True, smallest=1e-15,
    ),
    "IQ2_XS": _GridType(
        GRID_LAYOUTS["IQ2_XS"], 2, GridSearch(16, F(5), -9, 19, F(0.1), WHERE_OFF),
        smallest=1e-15,
    ),
    "IQ2_S": _GridType(
        GRID_LAYOUTS["IQ2_S"], 1, GridSearch(16, F(5), -9, 19, F(0.1), WHERE_OFF),
        factor=2, share=0.25, empties=False, fudge=0.9875,
    ),
}  # fmt: skip


@cache
def _codebook(name: str) -> Codebook:
    """The type's codebook, read from superblocks that hold all its points in order."""
    kind = _TYPES[name]
    return read_codebook(name, kind.layout.all_points(), kind.layout.lattice, kind.shells)


def _first_scales(kind: _GridType, sizes: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """(the number that the highest level is tried for, the scale before any trial) [N]."""
    most = sizes.max(1)
    high: Floats = np.where(most < F(kind.smallest), F(0), most)
    if not kind.fitted:
        return high, high / kind.search.top
    levels = kind.layout.lattice.levels
    codes, plain = np.empty(sizes.shape, np.uint8), np.empty(len(sizes), F)
    fit_positive(sizes, weights, F(levels + 1), codes, plain)
    reach = plain * F(levels)
    reach[(high == 0) | (reach <= 0)] = 0
    return reach, plain


def _encode(rows: Floats, importance: Floats | None, name: str) -> Codes:
    kind, book = _TYPES[name], _codebook(name)
    n, x = kind.search.n, rows.reshape(-1)
    squares = F(kind.factor) * sum_squares(x, SUPER) / F(SUPER)
    sizes, weights = np.empty((x.size // n, n), F), np.empty((x.size // n, n), F)
    signs = np.empty((x.size // n, n // 8), np.uint8)
    weighing = Weighing(
        _NONE if importance is None else importance, F(kind.share), kind.layout.signs == "even"
    )
    prepare_blocks(x, squares, weighing, sizes, weights, signs)
    high, plain = _first_scales(kind, sizes, weights)
    scales, points = search_grid(Blocks(sizes, weights, high, plain), kind.search, book.near)
    signs[high == 0] = 0
    signs[scales < 0] ^= 255
    numbers = book.index[points]
    if kind.closes_gaps:
        _close_gaps(numbers, signs, (high == 0).reshape(-1, SUPER // n))
    parts = _share_scales(np.abs(scales).reshape(-1, SUPER // n), kind, numbers, signs)
    return kind.layout.pack(parts).reshape(len(rows), -1)


def _close_gaps(numbers: NDArray[np.uint16], signs: Codes, zeros: NDArray[np.bool_]) -> None:
    """As ggml writes IQ3_S: at a block of zeros [S, blocks] it forgets to go on, so that what
    follows in its superblock stands a block too early; but for the points' ninth bits."""
    some = np.flatnonzero((zeros[:, :-1] & ~zeros[:, 1:]).any(1))
    order = np.argsort(zeros[some], axis=1, kind="stable")
    blocks = numbers.reshape(*zeros.shape, -1)
    low = np.take_along_axis(blocks[some] & 255, order[:, :, None], 1)
    blocks[some] = blocks[some] & 256 | low
    four = signs.reshape(*zeros.shape, -1)
    four[some] = np.take_along_axis(four[some], order[:, :, None], 1)


def _share_scales(
    scales: Floats, kind: _GridType, points: NDArray[np.uint16], signs: Codes
) -> GridParts:
    """The superblocks, given the scales [S, 256 / n] of their blocks."""
    count = len(scales)
    d = scales.max(1) / F(31)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        codes = round_to_codes(F(0.5) * (F(1) / d[:, None] * scales - F(1)), 15)
        half = (d * F(kind.fudge)).astype(np.float16)
    empty = d == 0
    codes[empty] = 0
    points, signs = points.reshape(count, -1), signs.reshape(count, -1)
    if kind.empties:
        points[empty], signs[empty] = 0, 0
    return GridParts(points, signs, codes, half)


def round_to_codes(values: Floats, most: int) -> Codes:
    """The nearest codes from 0 to `most`, by ggml's rounding (search_kernels.round_to_int)."""
    whole = ((values + F(12582912.0)).view(np.int32) & 0x7FFFFF) - 0x400000
    return np.asarray(np.clip(whole, 0, most), np.uint8)


GRID_ENCODERS = {name: partial(_encode, name=name) for name in _TYPES}
"""By type, with an importance; all but IQ2_XXS and IQ2_XS also without."""
