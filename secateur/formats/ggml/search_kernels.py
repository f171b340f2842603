"""ggml's searches for scales, many blocks at a time, bit for bit the same.

ggml tries some twenty scales for every block of 16 or 32 numbers, one block after the other. A
block's sums have an order that cannot change without changing bits; but blocks do not depend on
each other, so here VECTOR blocks take the same steps at once, in the processor's SIMD units. All
arithmetic is float32 without contraction, in ggml's order (ggml-quants.c of llama.cpp 0c1e57098:
make_qkx2_quants, make_qkx3_quants, make_qx_quants, quantize_row_iq4_nl_impl). numba compiles these
functions at first use and keeps the result, which it makes anew when this file changes, but not
when another does: so all that call each other are here.

Shapes: N blocks of n numbers. Inside a search x and w are float32 [n, VECTOR], a block a column.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateur.formats.ggml.searches import (
    AFFINE,
    IMPORTANCE_AND_SIZE,
    NEAR_ZERO_LESS,
    SIZE,
    SQUARE,
    SYMMETRIC,
    Search,
    Trials,
)
from secateur.system.jit import apart, compiled, inlined, inner

VECTOR = 64
"""Blocks searched at once: four SIMD registers of 16, enough to hide the latency of an addition."""

F = np.float32
I = np.int32  # noqa: E741

SMALLEST_BLOCK = F(1e-15)
"""A block whose largest magnitude is below counts as zero (GROUP_MAX_EPS)."""

VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], F)
"""The numbers that IQ4's codes stand for."""

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]
Sums = tuple[Floats, Floats, Floats]

_FOR_EARLIER_CACHES = Trials
"""What numba kept of earlier versions names it here, and is read before it is thrown away."""


@inlined
def round_to_int(value: np.float32) -> np.int32:
    """The nearest integer, ties to even, by ggml's trick: other bits beyond 2**22 as well. Kept to
    32 bits: numba adds in 64, in half as many SIMD lanes."""
    return I(I(np.float32(value + F(12582912.0)).view(np.int32) & I(0x7FFFFF)) - I(0x400000))


@inlined
def clip_code(value: np.float32, least: np.int32, most: np.int32) -> np.int32:
    """The nearest integer from `least` to `most`."""
    found = round_to_int(value)
    found = most if found > most else found
    return least if found < least else found


@inlined
def nearest_code(wanted: np.float32) -> np.int32:
    """The number of the nearest of VALUES; of two equally near the higher."""
    code = I(0)
    for j in range(15):
        code += I(0) if wanted - VALUES[j] < VALUES[j + 1] - wanted else I(1)
    return code


@inlined
def _nearest_value(wanted: np.float32) -> np.float32:
    """VALUES[nearest_code(wanted)], without looking it up."""
    value: np.float32 = VALUES[0]
    for j in range(15):
        value = value if wanted - VALUES[j] < VALUES[j + 1] - wanted else VALUES[j + 1]
    return value


@apart
def _find_bounds(
    x: Floats, w: Floats, low: Floats, high: Floats, weight: Floats, first: Floats
) -> None:
    """The least and the largest number, the sums of w and of w * x."""
    for k in range(VECTOR):
        low[k] = high[k] = x[0, k]
        weight[k] = w[0, k]
        first[k] = w[0, k] * x[0, k]
    for i in range(1, x.shape[0]):
        for k in range(VECTOR):
            v = x[i, k]
            low[k] = v if v < low[k] else low[k]
            high[k] = v if v > high[k] else high[k]
            weight[k] += w[i, k]
            first[k] += w[i, k] * v


@apart
def _sum_codes(
    x: Floats, w: Floats, most: np.int32, factor: Floats, shift: Floats, codes: Floats, sums: Sums
) -> None:
    """Codes of factor * (x - shift); the sums of w * code, w * code * code, w * code * x."""
    l1, l2, lx = sums
    for k in range(VECTOR):
        l1[k] = l2[k] = lx[k] = F(0)
    for i in range(x.shape[0]):
        for k in range(VECTOR):
            code = F(clip_code(factor[k] * (x[i, k] - shift[k]), I(0), most))
            codes[i, k] = code
            weighted = w[i, k] * code
            l1[k] += weighted
            l2[k] += weighted * code
            lx[k] += weighted * x[i, k]


@apart
def _sum_errors(
    x: Floats, w: Floats, codes: Floats, scale: Floats, shift: Floats, absolute: bool, error: Floats
) -> None:
    """Weighted errors, absolute or squared, of scale * code + shift."""
    for k in range(VECTOR):
        error[k] = F(0)
    if absolute:
        for i in range(x.shape[0]):
            for k in range(VECTOR):
                error[k] += w[i, k] * abs(scale[k] * codes[i, k] + shift[k] - x[i, k])
    else:
        for i in range(x.shape[0]):
            for k in range(VECTOR):
                off = scale[k] * codes[i, k] + shift[k] - x[i, k]
                error[k] += w[i, k] * (off * off)


@inner
def _search_affine(x: Floats, w: Floats, search: Search, found: Floats) -> None:
    """Scale d and offset m of x ~ d * code - m, codes 0 to `most`, by least weighted squares.

    `absolute` weighs absolute errors in place of squares. `found` [4, VECTOR] takes d, m, and the
    factor and the lower end by which the best codes are: clip_code(factor * (x - lower), 0, most).
    """
    zero, most, trials = F(0), search.most, search.trials
    codes, room = np.empty_like(x), np.empty((13, VECTOR), F)
    low, high, weight, first = room[0], room[1], room[2], room[3]
    l1, l2, lx = room[4], room[5], room[6]
    factor, scale, shift, divisor = room[7], room[8], room[9], room[10]
    error, now = room[11], room[12]
    sums = (l1, l2, lx)
    _find_bounds(x, w, low, high, weight, first)
    for k in range(VECTOR):
        low[k] = zero if low[k] > zero else low[k]
        factor[k] = most / (high[k] - low[k])
        found[0, k] = F(1) / factor[k]
        found[1, k] = low[k]
        found[2, k] = factor[k]
        found[3, k] = low[k]
    # ggml's first trial is the plain scale between the bounds.
    _sum_codes(x, w, I(most), factor, low, codes, sums)
    _sum_errors(x, w, codes, found[0], low, search.absolute, error)
    for step in range(trials.last + 1):
        wanted = trials.first + trials.step * F(step) + most
        for k in range(VECTOR):
            factor[k] = wanted / (high[k] - found[1, k])
        _sum_codes(x, w, I(most), factor, found[1], codes, sums)
        for k in range(VECTOR):
            divisor[k] = weight[k] * l2[k] - l1[k] * l1[k]
            free = (l2[k] * first[k] - l1[k] * lx[k]) / divisor[k]
            scale[k] = (weight[k] * lx[k] - first[k] * l1[k]) / divisor[k]
            scale[k] = lx[k] / l2[k] if free > zero else scale[k]
            shift[k] = zero if free > zero else free
        _sum_errors(x, w, codes, scale, shift, search.absolute, now)
        for k in range(VECTOR):
            better = (divisor[k] > zero) & (now[k] < error[k])
            error[k] = now[k] if better else error[k]
            found[0, k] = scale[k] if better else found[0, k]
            found[2, k] = factor[k] if better else found[2, k]
            found[3, k] = found[1, k] if better else found[3, k]
            found[1, k] = shift[k] if better else found[1, k]
    for k in range(VECTOR):
        flat = high[k] <= low[k]
        found[0, k] = zero if flat else found[0, k]
        found[1, k] = -(low[k] if flat else found[1, k])
        found[2, k] = zero if flat else found[2, k]


@inner
def _find_peaks(x: Floats) -> tuple[Floats, Floats]:
    """The largest magnitude of every block, and the number that has it (the first such)."""
    size, peak = np.zeros(VECTOR, F), np.zeros(VECTOR, F)
    for i in range(x.shape[0]):
        for k in range(VECTOR):
            larger = abs(x[i, k]) > size[k]
            peak[k] = x[i, k] if larger else peak[k]
            size[k] = abs(x[i, k]) if larger else size[k]
    return size, peak


@apart
def _sum_symmetric(
    x: Floats, w: Floats, least: np.int32, most: np.int32, factor: Floats, lx: Floats, l2: Floats
) -> None:
    """The sums of w * x * code and w * code * code for the codes of factor * x."""
    for k in range(VECTOR):
        lx[k] = l2[k] = F(0)
    for i in range(x.shape[0]):
        for k in range(VECTOR):
            code = F(clip_code(factor[k] * x[i, k], least, most))
            lx[k] += w[i, k] * x[i, k] * code
            l2[k] += w[i, k] * code * code


@inner
def _search_symmetric(x: Floats, w: Floats, half: np.float32, found: Floats) -> None:
    """Scale d of x ~ d * (code - half), codes 0 to 2 * half - 1, by least weighted squares.

    `found` [2, VECTOR] takes d and the factor by which the best codes are: clip_code(factor * x,
    -half, half - 1) + half; a factor of 0 marks a block of zeros, whose codes are 0.
    """
    least, most, zero = I(-half), I(I(half) - I(1)), F(0)
    size, peak = _find_peaks(x)
    factor, best = np.empty(VECTOR, F), np.empty(VECTOR, F)
    lx, l2 = np.empty(VECTOR, F), np.empty(VECTOR, F)
    # ggml's first trial is the plain scale; the others change it by -0.9 to 0.9.
    for trial in range(-10, 10):
        if trial == 0:
            continue
        wanted = -half if trial == -10 else -(half + F(0.1) * F(trial))
        for k in range(VECTOR):
            factor[k] = wanted / peak[k]
        _sum_symmetric(x, w, least, most, factor, lx, l2)
        for k in range(VECTOR):
            scale = lx[k] / l2[k]
            if trial == -10:
                scale = scale if l2[k] != zero else zero
                better = True
            else:
                better = (l2[k] > zero) & (lx[k] * lx[k] > best[k] * l2[k])
            found[0, k] = scale if better else found[0, k]
            found[1, k] = factor[k] if better else found[1, k]
            best[k] = scale * lx[k] if better else best[k]
    for k in range(VECTOR):
        found[0, k] = zero if size[k] < SMALLEST_BLOCK else found[0, k]
        found[1, k] = zero if size[k] < SMALLEST_BLOCK else found[1, k]


@apart
def _sum_nonlinear(x: Floats, w: Floats, factor: Floats, qx: Floats, q2: Floats) -> None:
    """The sums of w * value * x and w * value * value for the values nearest to factor * x."""
    for k in range(VECTOR):
        qx[k] = q2[k] = F(0)
    for i in range(x.shape[0]):
        for k in range(VECTOR):
            value = _nearest_value(factor[k] * x[i, k])
            qx[k] += w[i, k] * value * x[i, k]
            q2[k] += w[i, k] * value * value


@inner
def _search_nonlinear(x: Floats, w: Floats, found: Floats) -> None:
    """Scale d of x ~ d * VALUES[code] by least weighted squares; `found` [VECTOR] takes d."""
    zero = F(0)
    size, peak = _find_peaks(x)
    factor, best = np.empty(VECTOR, F), np.empty(VECTOR, F)
    qx, q2 = np.empty(VECTOR, F), np.empty(VECTOR, F)
    for trial in range(-8, 8):
        for k in range(VECTOR):
            if trial == -8:
                factor[k] = F(1) / (-peak[k] / VALUES[0])
            else:
                factor[k] = (F(trial) + VALUES[0]) / peak[k]
        _sum_nonlinear(x, w, factor, qx, q2)
        for k in range(VECTOR):
            scale = qx[k] / q2[k]
            if trial == -8:
                scale = scale if q2[k] > zero else zero
                better = True
            else:
                better = (q2[k] > zero) & (qx[k] * qx[k] > best[k] * q2[k])
            found[k] = scale if better else found[k]
            best[k] = scale * qx[k] if better else best[k]
    for k in range(VECTOR):
        found[k] = zero if size[k] < SMALLEST_BLOCK else found[k]


@apart
def _weigh(  # noqa: PLR0912 - a kernel has its loops
    x: Floats, weighing: int, squares: Floats, w: Floats, sums: Floats
) -> None:
    """Weights w of blocks x, in place of their importance, and the sums of w [VECTOR]; `squares`
    [VECTOR] are of the neighbourhood that each block is in."""
    n = x.shape[0]
    if weighing == IMPORTANCE_AND_SIZE:
        for i in range(n):
            for k in range(VECTOR):
                w[i, k] = w[i, k] * np.sqrt(squares[k] + x[i, k] * x[i, k])
    elif weighing == SQUARE:
        for i in range(n):
            for k in range(VECTOR):
                w[i, k] = x[i, k] * x[i, k]
    elif weighing == SIZE:
        for i in range(n):
            for k in range(VECTOR):
                w[i, k] = abs(x[i, k])
    elif weighing == NEAR_ZERO_LESS:
        for k in range(VECTOR):
            sums[k] = F(0)
        for i in range(n):
            for k in range(VECTOR):
                sums[k] += x[i, k] * x[i, k]
        for k in range(VECTOR):
            sums[k] = np.sqrt(sums[k] / F(n))
        for i in range(n):
            for k in range(VECTOR):
                w[i, k] = sums[k] + abs(x[i, k])
    for k in range(VECTOR):
        sums[k] = F(0)
    for i in range(n):
        for k in range(VECTOR):
            sums[k] += w[i, k]


@compiled
def search_blocks(x: Floats, search: Search, importance: Floats, squares: Floats) -> Floats:
    """float32 [5, N]: what the search finds for the blocks (4 rows), and their weights' sums.

    `squares` belong to as many neighbours of x each; `importance` begins again at its end.
    """
    n = search.n
    count, columns = x.size // n, importance.size
    found = np.zeros((5, count), F)
    vectors, weights = np.zeros((n, VECTOR), F), np.ones((n, VECTOR), F)
    result, square, sums = np.zeros((4, VECTOR), F), np.zeros(VECTOR, F), np.zeros(VECTOR, F)
    for first in range(0, count, VECTOR):
        blocks = min(VECTOR, count - first)
        column = first * n % columns if columns else 0
        for k in range(blocks):
            start = (first + k) * n
            if squares.size:
                square[k] = squares[start * squares.size // x.size]
            for i in range(n):
                vectors[i, k] = x[start + i]
            if columns:
                for i in range(n):
                    weights[i, k] = importance[column + i]
                column = column + n if column + n < columns else 0
        _weigh(vectors, search.weighing, square, weights, sums)
        if search.kind == AFFINE:
            _search_affine(vectors, weights, search, result)
        elif search.kind == SYMMETRIC:
            _search_symmetric(vectors, weights, search.most, result)
        else:
            _search_nonlinear(vectors, weights, result[0])
        found[:4, first : first + blocks] = result[:, :blocks]
        found[4, first : first + blocks] = sums[:blocks]
    return found


@compiled
def encode_affine(x: Floats, most: np.float32, d: Floats, m: Floats, found: Floats) -> Codes:
    """uint8 [len(x)]: nearest codes for x ~ d * code - m; the search's own where d is 0."""
    n = x.size // d.size
    codes = np.empty(x.size, np.uint8)
    for g in range(d.size):
        if d[g] == F(0):
            for i in range(g * n, g * n + n):
                codes[i] = clip_code(found[2, g] * (x[i] - found[3, g]), I(0), I(most))
        else:
            for i in range(g * n, g * n + n):
                codes[i] = clip_code((x[i] + m[g]) / d[g], I(0), I(most))
    return codes


@compiled
def encode_symmetric(x: Floats, half: np.float32, d: Floats, found: Floats) -> Codes:
    """uint8 [len(x)]: nearest codes for x ~ d * (code - half); the search's own where d is 0."""
    n = x.size // d.size
    codes = np.zeros(x.size, np.uint8)
    for g in range(d.size):
        if d[g] != F(0):
            for i in range(g * n, g * n + n):
                codes[i] = clip_code(x[i] / d[g], I(-half), I(half) - I(1)) + I(half)
        elif found[1, g] != F(0):
            for i in range(g * n, g * n + n):
                codes[i] = clip_code(found[1, g] * x[i], I(-half), I(half) - I(1)) + I(half)
    return codes


@compiled
def encode_nonlinear(x: Floats, inverse: Floats) -> Codes:
    """uint8 [len(x)]: codes of the values nearest to inverse * x."""
    n = x.size // inverse.size
    codes = np.empty(x.size, np.uint8)
    for g in range(inverse.size):
        for i in range(g * n, g * n + n):
            codes[i] = nearest_code(inverse[g] * x[i])
    return codes
