"""SIMD encoders of the types whose scales ggml searches for: ggml's bytes, several times as fast.

Each takes rows float32 [R, C] and the importance of the columns [C] or None, and returns uint8
[R, bytes of a row]. They work in three steps: the blocks' own scales (search_kernels), the scales
of the superblock of 256 and their codes, the codes of the numbers. Layouts: ggml-common.h of
llama.cpp 0c1e57098. Where sums overflow float32 (weights beyond 1e8) the scales are not finite
here, and the rows are refused (codec.encode); ggml itself writes something.

N blocks, S superblocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.formats.ggml.code_layout import (
    pack_bits,
    pack_eighths,
    pack_nibbles,
    pack_two_bits,
)
from secateur.formats.ggml.coordinate_kernels import search_coordinates
from secateur.formats.ggml.scale_kernels import fit_positive, sum_squares
from secateur.formats.ggml.scale_layout import (
    GroupCodes,
    pack_eight_sixes,
    pack_fours,
    pack_pairs_of_six,
    pack_sixteen_sixes,
)
from secateur.formats.ggml.search_kernels import (
    Codes,
    F,
    Floats,
    encode_affine,
    encode_nonlinear,
    encode_symmetric,
    search_blocks,
)
from secateur.formats.ggml.searches import (
    AFFINE,
    IMPORTANCE,
    IMPORTANCE_AND_SIZE,
    NEAR_ZERO_LESS,
    NONLINEAR,
    SIZE,
    SQUARE,
    SYMMETRIC,
    Search,
    Trials,
)

Encoder = Callable[[Floats, Floats | None], Codes]

SUPER = 256
"""Numbers of a superblock."""

_NONE = np.empty(0, F)


def _search(
    rows: Floats,
    search: Search,
    importance: Floats | None,
    *,
    span: int = SUPER,
    factor: float = 1.0,
) -> Floats:
    """`search_blocks`, given `factor` times the mean square over every `span` numbers."""
    x = rows.reshape(-1)
    squares = _NONE
    if search.weighing == IMPORTANCE_AND_SIZE:
        # As ggml rounds: the factor is a power of two, so it may come last.
        squares = sum_squares(x, span) / F(span) * F(factor)
    return search_blocks(x, search, _NONE if importance is None else importance, squares)


def _round_to_int(values: Floats) -> NDArray[np.int32]:
    """search_kernels.round_to_int of every value."""
    return ((values + F(12582912.0)).view(np.int32) & 0x7FFFFF) - 0x400000


def _scale_blocks(scales: NDArray[np.float16], codes: NDArray[np.integer[Any]]) -> Floats:
    """float32 [S * n]: the blocks' scales, of superblocks' scales [S] and codes [S, n].

    Not a number where a scale is beyond float16: such blocks are refused afterwards.
    """
    with np.errstate(invalid="ignore"):
        return (scales.astype(F)[:, None] * codes.astype(F)).reshape(-1)


def _round_to_half(values: NDArray[np.floating[Any]]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        return values.astype(np.float16)


def _view_bytes(values: NDArray[np.generic]) -> Codes:
    """uint8 [S, ...]: the bytes of one number a superblock."""
    return values.view(np.uint8).reshape(len(values), -1)


def _join(rows: Floats, *parts: NDArray[np.integer[Any]]) -> Codes:
    return np.concatenate(parts, axis=1).reshape(len(rows), -1)


def _share_scales(values: Floats, most: int) -> tuple[NDArray[np.float16], Codes]:
    """(float16 [S], codes uint8 [S, n]) of scales [S, n] without an importance: by the largest."""
    largest = values.max(1)
    largest = np.where(largest > 0, largest, F(0))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        factor = np.where(largest > 0, F(most) / largest, F(0))
        codes = _round_to_int(factor[:, None] * values).astype(np.uint8)
    return _round_to_half(largest / F(most)), codes


def _fit_scales(values: Floats, sums: Floats, most: int) -> tuple[NDArray[np.float16], Codes]:
    """The same with an importance: by least squares, weighed by the blocks' sums."""
    codes, scales = np.empty(values.shape, np.uint8), np.empty(len(values), F)
    fit_positive(values, sums, F(most), codes, scales)
    return _round_to_half(scales), codes


def _split_scales(
    rows: Floats, found: Floats, importance: Floats | None, most: int
) -> tuple[NDArray[np.float16], NDArray[np.float16], Codes, Codes]:
    """d and m of the superblocks, and the blocks' codes for them."""
    scales, mins, sums = (found[row].reshape(rows.size // SUPER, -1) for row in (0, 1, 4))
    if importance is None:
        d, scale_codes = _share_scales(scales, most)
        m, min_codes = _share_scales(mins, most)
    else:
        d, scale_codes = _fit_scales(scales, sums, most)
        m, min_codes = _fit_scales(mins, sums, most)
    return d, m, scale_codes, min_codes


def _encode_q2_k(rows: Floats, importance: Floats | None) -> Codes:
    if importance is None:
        search = Search(16, AFFINE, F(3), SIZE, Trials(F(-0.5), F(0.1), 15), absolute=True)
    else:
        search = Search(16, AFFINE, F(3), IMPORTANCE_AND_SIZE)
    found = _search(rows, search, importance)
    d, m, scales, mins = _split_scales(rows, found, importance, 15)
    both = pack_fours(GroupCodes(scales, mins))
    real_d, real_m = _scale_blocks(d, both & 15), _scale_blocks(m, both >> 4)
    codes = encode_affine(rows.reshape(-1), F(3), real_d, real_m, found)
    return _join(
        rows, both, pack_two_bits(codes.reshape(-1, SUPER)), _view_bytes(d), _view_bytes(m)
    )


def _encode_q4_or_q5_k(rows: Floats, importance: Floats | None, most: int) -> Codes:
    if importance is None:
        trials = Trials(F(-1), F(0.1), 20) if most == 15 else Trials(F(-0.5), F(0.1), 15)
        search = Search(32, AFFINE, F(most), NEAR_ZERO_LESS, trials)
    else:
        search = Search(32, AFFINE, F(most), IMPORTANCE_AND_SIZE)
    found = _search(rows, search, importance, factor=2.0)
    d, m, scales, mins = _split_scales(rows, found, importance, 63)
    scales, mins = np.minimum(scales, 63), np.minimum(mins, 63)
    packed = pack_pairs_of_six(GroupCodes(scales, mins))
    real_d, real_m = _scale_blocks(d, scales), _scale_blocks(m, mins)
    codes = encode_affine(rows.reshape(-1), F(most), real_d, real_m, found).reshape(-1, SUPER)
    low = pack_nibbles(codes, 32)
    if most == 15:
        return _join(rows, _view_bytes(d), _view_bytes(m), packed, low)
    return _join(rows, _view_bytes(d), _view_bytes(m), packed, pack_eighths(codes >> 4), low)


def _encode_q3_k(rows: Floats, importance: Floats | None) -> Codes:
    if importance is None:
        return _encode_plain_q3_k(rows)
    search = Search(16, SYMMETRIC, F(4), IMPORTANCE_AND_SIZE)
    found = _search(rows, search, importance, factor=2.0)
    scales, sums = found[0].reshape(-1, 16), found[4].reshape(-1)
    shared = _search(scales, Search(16, SYMMETRIC, F(32), IMPORTANCE), sums)
    codes6 = encode_symmetric(scales.reshape(-1), F(32), np.zeros(len(scales), F), shared)
    six = codes6.reshape(-1, 16).astype(np.int32) - 32
    packed = pack_sixteen_sixes(GroupCodes(six))
    d = _round_to_half(shared[0])
    real_d = _scale_blocks(d, six)
    codes = encode_symmetric(rows.reshape(-1), F(4), real_d, found)
    return _join_q3_k(rows, codes.reshape(-1, SUPER), packed, d)


def _encode_plain_q3_k(rows: Floats) -> Codes:
    found, own_codes = search_coordinates(rows.reshape(-1, 16))
    scales = found.reshape(-1, 16)
    largest = np.take_along_axis(scales, np.abs(scales).argmax(1)[:, None], 1)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        factor = F(-32) / largest
        six = np.clip(_round_to_int(factor * scales).astype(np.int8), -32, 31)
        d = _round_to_half(np.where(largest != 0, F(1) / factor, F(0)))[:, 0]
    six[largest[:, 0] == 0] = -32
    real_d = _scale_blocks(d, six)
    codes = encode_symmetric(rows.reshape(-1), F(4), real_d, np.zeros((2, real_d.size), F))
    codes = codes.reshape(-1, 16)
    codes[real_d == 0] = own_codes[real_d == 0]
    return _join_q3_k(rows, codes.reshape(-1, SUPER), pack_sixteen_sixes(GroupCodes(six)), d)


def _join_q3_k(rows: Floats, codes: Codes, packed: Codes, d: NDArray[np.float16]) -> Codes:
    return _join(rows, pack_eighths(codes >> 2), pack_two_bits(codes & 3), packed, _view_bytes(d))


def _encode_q6_k(rows: Floats, importance: Floats | None) -> Codes:
    weighing = SQUARE if importance is None else IMPORTANCE
    found = _search(rows, Search(16, SYMMETRIC, F(32), weighing), importance)
    scales = found[0].reshape(-1, 16)
    largest = np.take_along_axis(scales, np.abs(scales).argmax(1)[:, None], 1)[:, 0]
    empty = np.abs(largest) < F(1e-15)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        factor = F(-128) / largest
        d = _round_to_half(np.where(empty, F(0), F(1) / factor))
        factor = np.where(empty, F(0), factor)
        eight = np.minimum(127, _round_to_int(factor[:, None] * scales)).astype(np.int8)
    codes = encode_symmetric(rows.reshape(-1), F(32), _scale_blocks(d, eight), found)
    codes = codes.reshape(-1, SUPER)
    codes[empty] = 0
    low = pack_nibbles(codes, 64)
    return _join(rows, low, pack_two_bits(codes >> 4), eight.view(np.uint8), _view_bytes(d))


def _encode_legacy(rows: Floats, importance: Floats | None, bits: int, offset: bool) -> Codes:
    """Q4_0, Q5_0 (symmetric) and Q4_1, Q5_1 (with an offset), with an importance."""
    span = rows.shape[1]
    kind, most = (AFFINE, 2**bits - 1) if offset else (SYMMETRIC, 2 ** (bits - 1))
    search = Search(32, kind, F(most), IMPORTANCE_AND_SIZE)
    found = _search(rows, search, importance, span=span)
    none = np.zeros(rows.size // 32, F)
    if offset:
        codes = encode_affine(rows.reshape(-1), F(most), none, none, found)
        heads = [_view_bytes(_round_to_half(found[0])), _view_bytes(_round_to_half(-found[1]))]
    else:
        codes = encode_symmetric(rows.reshape(-1), F(most), none, found)
        heads = [_view_bytes(_round_to_half(found[0]))]
    codes = codes.reshape(-1, 32)
    if bits == 5:
        heads.append(pack_bits(codes >> 4))
    return _join(rows, *heads, pack_nibbles(codes, 16))


def _encode_iq4(rows: Floats, importance: Floats | None, size: int) -> Codes:
    """IQ4_NL (size 32) and IQ4_XS (size 256, whose blocks share a scale)."""
    weighing = SQUARE if importance is None else IMPORTANCE_AND_SIZE
    search = Search(32, NONLINEAR, F(0), weighing)
    found = _search(rows, search, importance, span=size, factor=2.0)
    scales = found[0].reshape(-1, size // 32)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if size == 32:
            heads = [_view_bytes(_round_to_half(scales[:, 0]))]
            real = scales
        else:
            place = np.abs(scales).argmax(1)[:, None]
            d = -np.take_along_axis(scales, place, 1) / F(32)
            factor = np.where(d != 0, F(1) / d, F(0))
            six = np.clip(_round_to_int(factor * scales), -32, 31)
            real = d * six.astype(F)
            heads = [_view_bytes(_round_to_half(d[:, 0])), pack_eight_sixes(GroupCodes(six))]
        inverse = np.where(real != 0, F(1) / real, F(0)).reshape(-1)
    codes = encode_nonlinear(rows.reshape(-1), inverse).reshape(len(heads[0]), -1)
    return _join(rows, *heads, pack_nibbles(codes, 16))


ENCODERS: Mapping[str, Encoder] = {
    "Q2_K": _encode_q2_k,
    "Q3_K": _encode_q3_k,
    "Q4_K": partial(_encode_q4_or_q5_k, most=15),
    "Q5_K": partial(_encode_q4_or_q5_k, most=31),
    "Q6_K": _encode_q6_k,
    "IQ4_NL": partial(_encode_iq4, size=32),
    "IQ4_XS": partial(_encode_iq4, size=SUPER),
}
"""By type, with an importance or without."""

WEIGHED_ENCODERS: Mapping[str, Encoder] = {
    **ENCODERS,
    "Q4_0": partial(_encode_legacy, bits=4, offset=False),
    "Q4_1": partial(_encode_legacy, bits=4, offset=True),
    "Q5_0": partial(_encode_legacy, bits=5, offset=False),
    "Q5_1": partial(_encode_legacy, bits=5, offset=True),
}
"""By type, with an importance."""
