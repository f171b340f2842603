"""SIMD encoder of IQ1_S: ggml's bytes, more than twice as fast.

Layout: ggml-common.h of llama.cpp 0c1e57098.

S superblocks of 256 numbers, N blocks.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from secateur.formats.ggml.codebooks import Codebook, read_codebook
from secateur.formats.ggml.grid_encoders import EIGHTS, SUPER, round_to_codes
from secateur.formats.ggml.scale_kernels import sum_squares
from secateur.formats.ggml.search_kernels import Codes, F, Floats
from secateur.formats.ggml.ternary_kernels import choose_points, cut_32

Signs = NDArray[np.int8]


@cache
def _codebook() -> Codebook:
    """Read from superblocks of IQ1_S that hold all its points in order."""
    numbers = np.arange(2048, dtype=np.uint16).reshape(-1, 32)
    return read_codebook("IQ1_S", _pack_iq1_s(numbers, np.zeros((64, 8)), np.ones(64)), EIGHTS, 3)


def _pack_iq1_s(
    numbers: NDArray[np.uint16], codes: NDArray[np.generic], d: NDArray[np.generic]
) -> Codes:
    """Superblocks of points [S, 32] by number, scales of blocks [S, 8] with the eighth's sign as
    fourth bit, and scales [S]."""
    three = (numbers >> 8).reshape(-1, 8, 4) << np.arange(0, 12, 3, dtype=np.uint16)
    high = np.bitwise_or.reduce(three, axis=2) | codes.astype(np.uint16) << np.uint16(12)
    with np.errstate(over="ignore"):
        half = d.astype(np.float16)[:, None]
    parts = (half.view(np.uint8), numbers.astype(np.uint8), high.view(np.uint8))
    return np.concatenate(parts, axis=1)


def _weigh(rows: Floats, importance: Floats) -> Floats:
    with np.errstate(over="ignore"):
        squares = F(2) * sum_squares(rows.reshape(-1), SUPER) / F(SUPER)
        around = np.repeat(squares, SUPER).reshape(rows.shape)
        return np.asarray(importance * np.sqrt(around + rows * rows), F)


def _find_points(x: Floats, w: Floats) -> tuple[Floats, NDArray[np.int32], Signs]:
    """(scales [N], packed points [N, 4], the eighth's sign [N]) of blocks x, w [N, 32].

    Blocks of zeros, or that no scale fits, have the scale 0, the points 0 and the sign 1.
    """
    scales, levels, signs = cut_32(x, w)
    turned = scales < 0
    scales = np.abs(scales)
    levels[turned], signs[turned] = 2 - levels[turned], -signs[turned]
    none = np.abs(x).max(1) < F(1e-12)
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
    """uint8 [R, bytes of a row] of rows [R, C], given the importance of the columns [C]."""
    assert importance is not None  # codec.encode has refused it
    w = _weigh(rows, importance)
    scales, points, signs = _find_points(rows.reshape(-1, 32), w.reshape(-1, 32))
    d, codes = _code_scales(scales.reshape(-1, 8))
    minus = (signs.reshape(-1, 8) < 0) & (d != 0)[:, None]
    numbers = _codebook().index[points].reshape(-1, 32)
    with np.errstate(over="ignore"):
        blocks = _pack_iq1_s(numbers, codes | minus.astype(np.uint8) << 3, d * F(1.125))
    return blocks.reshape(len(rows), -1)
