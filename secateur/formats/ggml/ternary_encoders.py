"""SIMD encoders of IQ1_S and IQ1_M: ggml's bytes, several times as fast.

Each takes rows float32 [R, C] and the importance of the columns [C], for IQ1_M also None, and
returns uint8 [R, bytes of a row], as ggml-quants.c of llama.cpp 0c1e57098 makes them.

S superblocks of 256 numbers, N blocks.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from secateur.formats.ggml.codebooks import Codebook, read_codebook
from secateur.formats.ggml.grid_encoders import round_to_codes
from secateur.formats.ggml.grid_layout import EIGHTS, GRID_LAYOUTS, SUPER, GridParts
from secateur.formats.ggml.scale_kernels import sum_squares
from secateur.formats.ggml.search_kernels import Codes, F, Floats
from secateur.formats.ggml.ternary_kernels import choose_points, cut_16, cut_32, fit_superblocks

Signs = NDArray[np.int8]


@cache
def _codebook() -> Codebook:
    """That of both types."""
    return read_codebook("IQ1_S", GRID_LAYOUTS["IQ1_S"].all_points(), EIGHTS, 3)


def _weigh(rows: Floats, importance: Floats | None) -> Floats:
    if importance is None:
        with np.errstate(over="ignore"):
            return np.asarray(rows * rows, F)
    with np.errstate(over="ignore"):
        squares = F(2) * sum_squares(rows.reshape(-1), SUPER) / F(SUPER)
        around = np.repeat(squares, SUPER).reshape(rows.shape)
        return np.asarray(importance * np.sqrt(around + rows * rows), F)


def _find_points(x: Floats, w: Floats, smallest: float) -> tuple[Floats, NDArray[np.int32], Signs]:
    """(scales [N], packed points and their eighths' signs [N, n / 8]) of blocks x, w [N, n].

    Blocks whose numbers are all below `smallest`, or that no scale fits, have the scale 0, the
    points 0 and the sign 1.
    """
    groups = x.shape[1] // 8
    scales, levels, signs = cut_32(x, w) if groups == 4 else cut_16(x, w)
    signs = np.repeat(signs, groups // signs.shape[1], axis=1)
    turned = scales < 0
    scales = np.abs(scales)
    levels[turned], signs[turned] = 2 - levels[turned], -signs[turned]
    none = np.abs(x).max(1) < F(smallest)
    scales[none], signs[none] = 0, 0
    points = choose_points(x, w, levels, signs, scales, _codebook().near)
    signs[signs == 0] = 1
    return scales, points, signs


def _code_scales(scales: Floats) -> tuple[Floats, Codes]:
    """The superblocks' scales [S] and the codes 0 to 7 of those of their blocks [S, blocks]."""
    d = scales.max(1) / F(15)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        codes = round_to_codes(F(0.5) * (F(1) / d[:, None] * scales - F(1)), 7)
    codes[d == 0] = 0
    return d, codes


def encode_iq1_s(rows: Floats, importance: Floats | None) -> Codes:
    w = _weigh(rows, importance)
    scales, points, signs = _find_points(rows.reshape(-1, 32), w.reshape(-1, 32), 1e-12)
    d, codes = _code_scales(scales.reshape(-1, 8))
    minus = (signs[:, 0].reshape(-1, 8) < 0) & (d != 0)[:, None]
    numbers = _codebook().index[points].reshape(-1, 32)
    with np.errstate(over="ignore"):
        half = (d * F(1.125)).astype(np.float16)
    parts = GridParts(numbers, np.repeat(minus.astype(np.uint8), 4, axis=1), codes, half)
    return GRID_LAYOUTS["IQ1_S"].pack(parts).reshape(len(rows), -1)


def encode_iq1_m(rows: Floats, importance: Floats | None) -> Codes:
    w = _weigh(rows, importance)
    scales, points, signs = _find_points(rows.reshape(-1, 16), w.reshape(-1, 16), 1e-7)
    d, codes = _code_scales(scales.reshape(-1, 16))
    points, signs = points.reshape(-1, 32), signs.reshape(-1, 32)
    empty = d == 0
    fit_superblocks(rows.reshape(-1, SUPER), w.reshape(-1, SUPER), points, signs, codes, d)
    signs[empty], d[empty] = 1, 0
    with np.errstate(over="ignore"):
        half = (d * F(1.1125)).astype(np.float16)
    parts = GridParts(_codebook().index[points], (signs < 0).astype(np.uint8), codes, half)
    return GRID_LAYOUTS["IQ1_M"].pack(parts).reshape(len(rows), -1)


TERNARY_ENCODERS = {"IQ1_S": encode_iq1_s, "IQ1_M": encode_iq1_m}
"""By type, with an importance; IQ1_M also without."""
