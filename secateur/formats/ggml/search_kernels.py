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

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.system.jit import compiled, inlined

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


class Trials(NamedTuple):
    """Which scales are tried: those for which the codes would reach to `most` and this more."""

    first: np.float32
    step: np.float32
    last: int
    """their number, less one"""


# How much a number's error counts: root mean square and its size, its size, its square, its
# column's importance, that times the root of the mean and its own square.
NEAR_ZERO_LESS, SIZE, SQUARE, IMPORTANCE, IMPORTANCE_AND_SIZE = range(5)

# What the codes stand for.
AFFINE, SYMMETRIC, NONLINEAR = range(3)


class Search(NamedTuple):
    """How blocks of `n` numbers are searched."""

    n: int
    kind: int
    most: np.float32
    """the largest code (affine), or half their number (symmetric)"""
    weighing: int
    trials: Trials = Trials(F(-0.9), F(0.05), 36)
    """of affine searches; these are ggml's with an importance"""
    absolute: bool = False


@inlined
def round_to_int(value: np.float32) -> np.int32:
    """The nearest integer, ties to even, by ggml's trick: other bits beyond 2**22 as well."""
    return I(np.float32(value + F(12582912.0)).view(np.int32) & I(0x7FFFFF)) - I(0x400000)


@inlined
def clip_code(value: np.float32, least: np.int32, most: np.int32) -> np.int32:
    """The nearest integer from `least` to `most`."""
    found = round_to_int(value)
    found = most if found > most else found
    return least if found < least else found


@inlined
def nearest_code(wanted: np.float32) -> np.int32:
    """The number of the nearest of VALUES; of two at the same distance the higher."""
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


@compiled
def _start_affine(
    x: Floats, w: Floats, most: np.float32, absolute: bool, found: Floats
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Bounds (low, high) and sums (of w, of w * x) of the blocks, and the error of `found`.

    `found` [4, VECTOR] becomes what the plain scale between the bounds gives (see
    `_search_affine`).
    """
    n = x.shape[0]
    zero, top = F(0), I(most)
    low, high, weight, first = x[0].copy(), x[0].copy(), w[0].copy(), w[0] * x[0]
    factor, error = np.empty(VECTOR, F), np.zeros(VECTOR, F)
    for i in range(1, n):
        for k in range(VECTOR):
            v = x[i, k]
            low[k] = v if v < low[k] else low[k]
            high[k] = v if v > high[k] else high[k]
            weight[k] += w[i, k]
            first[k] += w[i, k] * v
    for k in range(VECTOR):
        low[k] = zero if low[k] > zero else low[k]
        factor[k] = most / (high[k] - low[k])
        found[0, k] = F(1) / factor[k]
        found[1, k] = low[k]
        found[2, k] = factor[k]
        found[3, k] = low[k]
    for i in range(n):
        for k in range(VECTOR):
            code = F(clip_code(factor[k] * (x[i, k] - low[k]), I(0), top))
            off = found[0, k] * code + low[k] - x[i, k]
            error[k] += w[i, k] * (abs(off) if absolute else off * off)
    return low, high, weight, first, error


@compiled
def _search_affine(
    x: Floats,
    w: Floats,
    most: np.float32,
    trials: Trials,
    absolute: bool,
    found: Floats,
) -> None:
    """Scale d and offset m of x ~ d * code - m, codes 0 to `most`, by least weighted squares.

    `absolute` weighs absolute errors in place of squares. `found` [4, VECTOR] takes d, m, and the
    factor and the lower end by which the best codes are: clip_code(factor * (x - lower), 0, most).
    """
    n = x.shape[0]
    zero, top = F(0), I(most)
    low, high, weight, first, error = _start_affine(x, w, most, absolute, found)
    factor, now = np.empty(VECTOR, F), np.empty(VECTOR, F)
    l1, l2, lx = np.empty(VECTOR, F), np.empty(VECTOR, F), np.empty(VECTOR, F)
    scale, shift, divisor = np.empty(VECTOR, F), np.empty(VECTOR, F), np.empty(VECTOR, F)
    codes = np.empty((n, VECTOR), F)
    for step in range(trials.last + 1):
        wanted = trials.first + trials.step * F(step) + most
        for k in range(VECTOR):
            factor[k] = wanted / (high[k] - found[1, k])
            l1[k] = l2[k] = lx[k] = now[k] = zero
        for i in range(n):
            for k in range(VECTOR):
                code = F(clip_code(factor[k] * (x[i, k] - found[1, k]), I(0), top))
                codes[i, k] = code
                weighted = w[i, k] * code
                l1[k] += weighted
                l2[k] += weighted * code
                lx[k] += weighted * x[i, k]
        for k in range(VECTOR):
            divisor[k] = weight[k] * l2[k] - l1[k] * l1[k]
            free = (l2[k] * first[k] - l1[k] * lx[k]) / divisor[k]
            scale[k] = (weight[k] * lx[k] - first[k] * l1[k]) / divisor[k]
            scale[k] = lx[k] / l2[k] if free > zero else scale[k]
            shift[k] = zero if free > zero else free
        for i in range(n):
            for k in range(VECTOR):
                off = scale[k] * codes[i, k] + shift[k] - x[i, k]
                now[k] += w[i, k] * (abs(off) if absolute else off * off)
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


@compiled
def _find_peaks(x: Floats) -> tuple[Floats, Floats]:
    """The largest magnitude of every block, and the number that has it (the first such)."""
    size, peak = np.zeros(VECTOR, F), np.zeros(VECTOR, F)
    for i in range(x.shape[0]):
        for k in range(VECTOR):
            larger = abs(x[i, k]) > size[k]
            peak[k] = x[i, k] if larger else peak[k]
            size[k] = abs(x[i, k]) if larger else size[k]
    return size, peak


@compiled
def _search_symmetric(x: Floats, w: Floats, half: np.float32, found: Floats) -> None:
    """Scale d of x ~ d * (code - half), codes 0 to 2 * half - 1, by least weighted squares.

    `found` [2, VECTOR] takes d and the factor by which the best codes are: clip_code(factor * x,
    -half, half - 1) + half; a factor of 0 marks a block of zeros, whose codes are 0.
    """
    n = x.shape[0]
    least, most = I(-half), I(half) - I(1)
    zero = F(0)
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
            lx[k] = l2[k] = zero
        for i in range(n):
            for k in range(VECTOR):
                code = F(clip_code(factor[k] * x[i, k], least, most))
                lx[k] += w[i, k] * x[i, k] * code
                l2[k] += w[i, k] * code * code
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


@compiled
def _search_nonlinear(x: Floats, w: Floats, found: Floats) -> None:
    """Scale d of x ~ d * VALUES[code] by least weighted squares; `found` [VECTOR] takes d."""
    n = x.shape[0]
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
            qx[k] = q2[k] = zero
        for i in range(n):
            for k in range(VECTOR):
                value = _nearest_value(factor[k] * x[i, k])
                qx[k] += w[i, k] * value * x[i, k]
                q2[k] += w[i, k] * value * value
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


@compiled
def _weigh(
    x: Floats, weighing: int, importance: Floats, column: int, squares: np.float32, w: Floats
) -> None:
    """Weights of one block x [n] into w [n]."""
    n = x.size
    if weighing == IMPORTANCE_AND_SIZE:
        for i in range(n):
            w[i] = importance[column + i] * np.sqrt(squares + x[i] * x[i])
    elif weighing == IMPORTANCE:
        for i in range(n):
            w[i] = importance[column + i]
    elif weighing == SQUARE:
        for i in range(n):
            w[i] = x[i] * x[i]
    elif weighing == SIZE:
        for i in range(n):
            w[i] = abs(x[i])
    else:
        total = F(0)
        for i in range(n):
            total += x[i] * x[i]
        mean = np.sqrt(total / F(n))
        for i in range(n):
            w[i] = mean + abs(x[i])


@compiled
def search_blocks(x: Floats, search: Search, importance: Floats, squares: Floats) -> Floats:
    """float32 [5, N]: what the search finds for the blocks (4 rows), and their weights' sums.

    `squares` belong to as many neighbours of x each; `importance` begins again at its end.
    """
    n = search.n
    columns = importance.size if importance.size else n
    count = x.size // n
    found = np.zeros((5, count), F)
    vectors, weights = np.zeros((n, VECTOR), F), np.ones((n, VECTOR), F)
    result, w = np.zeros((4, VECTOR), F), np.empty(n, F)
    for first in range(0, count, VECTOR):
        blocks = min(VECTOR, count - first)
        for k in range(blocks):
            start = (first + k) * n
            block = x[start : start + n]
            square = squares[start * squares.size // x.size] if squares.size else F(0)
            _weigh(block, search.weighing, importance, start % columns, square, w)
            total = F(0)
            for i in range(n):
                vectors[i, k] = block[i]
                weights[i, k] = w[i]
                total += w[i]
            found[4, first + k] = total
        if search.kind == AFFINE:
            _search_affine(vectors, weights, search.most, search.trials, search.absolute, result)
        elif search.kind == SYMMETRIC:
            _search_symmetric(vectors, weights, search.most, result)
        else:
            _search_nonlinear(vectors, weights, result[0])
        found[:4, first : first + blocks] = result[:, :blocks]
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
