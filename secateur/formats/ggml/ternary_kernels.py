"""ggml's searches for IQ1_S and IQ1_M, many blocks at a time, bit for bit the same.

A number is (-1, 0 or 1, plus or minus an eighth) times the block's scale. The numbers of a block
are sorted, and for every way to cut the order into the three levels, and every sign of the
eighths, ggml asks which scale fits best. Here VECTOR blocks take the same steps at once. Then each
group of eight becomes the nearest point of the codebook. Float32 without contraction, in ggml's
order (ggml-quants.c of llama.cpp 01243c587: quantize_row_iq1_s_impl, quantize_row_iq1_m_impl,
iq1_find_best_neighbour2). numba compiles anew when this file changes, but not when another does:
so all that call each other are here.

N blocks of n numbers; inside a search arrays are [.., VECTOR], a block a column.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateur.formats.ggml.codebooks import Integers, Near
from secateur.formats.ggml.search_kernels import Codes, F, Floats, I
from secateur.system.jit import apart, compiled, inner

VECTOR = 64

DELTA = F(0.125)
_HUGE = F(np.finfo(np.float32).max)


@inner
def _sort_blocks(
    x: Floats, w: Floats, sorted_x: Floats, sorted_w: Floats, places: Integers
) -> None:
    """Columns of numbers in ascending order, with their weights and places; equal ones stay."""
    for k in range(len(x)):
        for i in range(x.shape[1]):
            v, at = x[k, i], i
            while at > 0 and sorted_x[at - 1, k] > v:
                sorted_x[at, k] = sorted_x[at - 1, k]
                places[at, k] = places[at - 1, k]
                at -= 1
            sorted_x[at, k] = v
            places[at, k] = i
        for i in range(x.shape[1]):
            sorted_w[i, k] = w[k, places[i, k]]


@apart
def _add_up(x: Floats, w: Floats, sums_x: Floats, sums_w: Floats) -> None:
    """Sums of w * x and of w over the first numbers [n + 1, VECTOR]."""
    for k in range(VECTOR):
        sums_x[0, k] = sums_w[0, k] = F(0)
    for i in range(x.shape[0]):
        for k in range(VECTOR):
            sums_x[i + 1, k] = sums_x[i, k] + w[i, k] * x[i, k]
            sums_w[i + 1, k] = sums_w[i, k] + w[i, k]


@apart
def _try_cuts(
    i1: int, sums_x: Floats, sums_w: Floats, scale: Floats, best: Floats, cut: Integers
) -> None:
    """All second cuts for the first one i1; `cut` is 2 * (64 * i1 + i2) + (1 for minus)."""
    last = sums_x.shape[0] - 1
    low, mid, high = -F(1) + DELTA, DELTA, F(1) + DELTA
    low_m, high_m = -F(1) - DELTA, F(1) - DELTA
    for i2 in range(i1, last + 1):
        now = I(2 * (64 * i1 + i2))
        for k in range(VECTOR):
            ax, bx = sums_x[i1, k] - sums_x[0, k], sums_x[i2, k] - sums_x[i1, k]
            cx = sums_x[last, k] - sums_x[i2, k]
            aw, bw = sums_w[i1, k] - sums_w[0, k], sums_w[i2, k] - sums_w[i1, k]
            cw = sums_w[last, k] - sums_w[i2, k]
            s, b, c = scale[k], best[k], cut[k]
            xq = ax * low + bx * mid + cx * high
            qq = aw * low * low + bw * mid * mid + cw * high * high
            better = (qq > F(0)) & (xq * xq > b * qq)
            s = xq / qq if better else s
            b = s * xq if better else b
            c = now if better else c
            xq = ax * low_m + bx * -mid + cx * high_m
            qq = aw * low_m * low_m + bw * -mid * -mid + cw * high_m * high_m
            better = (qq > F(0)) & (xq * xq > b * qq)
            s = xq / qq if better else s
            b = s * xq if better else b
            c = I(now + I(1)) if better else c
            scale[k], best[k], cut[k] = s, b, c


@compiled
def cut_32(x: Floats, w: Floats) -> tuple[Floats, NDArray[np.int8], NDArray[np.int8]]:
    """(scales [N], levels 0 to 2 [N, 32], the eighth's sign -1 or 1 [N, 1]) of IQ1_S.

    The sign is 0 where no cut has a scale. A scale may come out below 0.
    """
    count, n = x.shape
    scales, levels = np.zeros(count, F), np.ones((count, n), np.int8)
    signs = np.zeros((count, 1), np.int8)
    some_x, some_w = np.zeros((n, VECTOR), F), np.zeros((n, VECTOR), F)
    places = np.zeros((n, VECTOR), I)
    sums_x, sums_w = np.zeros((n + 1, VECTOR), F), np.zeros((n + 1, VECTOR), F)
    scale, best, cut = np.zeros(VECTOR, F), np.zeros(VECTOR, F), np.zeros(VECTOR, I)
    for first in range(0, count, VECTOR):
        blocks = min(VECTOR, count - first)
        _sort_blocks(x[first : first + blocks], w[first : first + blocks], some_x, some_w, places)
        _add_up(some_x, some_w, sums_x, sums_w)
        for k in range(VECTOR):
            best[k], cut[k] = -_HUGE, -1
        for i1 in range(n + 1):
            _try_cuts(i1, sums_x, sums_w, scale, best, cut)
        for k in range(blocks):
            if cut[k] >= 0:
                scales[first + k] = scale[k]
                signs[first + k, 0] = 1 - 2 * (cut[k] & 1)
                i1, i2 = cut[k] >> 7, cut[k] >> 1 & 63
                for i in range(n):
                    levels[first + k, places[i, k]] = 0 if i < i1 else 1 if i < i2 else 2
    return scales, levels, signs


@apart
def _add_up_halves(
    x: Floats, w: Floats, places: Integers, half: int, sums_x: Floats, sums_w: Floats
) -> None:
    """As `_add_up`, of the numbers of one half of the block."""
    first = half * x.shape[0] // 2
    last = first + x.shape[0] // 2
    for k in range(VECTOR):
        sums_x[0, k] = sums_w[0, k] = F(0)
    for i in range(x.shape[0]):
        for k in range(VECTOR):
            there = (places[i, k] >= first) & (places[i, k] < last)
            more_x, more_w = sums_x[i, k] + w[i, k] * x[i, k], sums_w[i, k] + w[i, k]
            sums_x[i + 1, k] = more_x if there else sums_x[i, k]
            sums_w[i + 1, k] = more_w if there else sums_w[i, k]


@apart
def _sum_cut(
    i1: int, i2: int, sums_x: Floats, sums_w: Floats, xp: Floats, xm: Floats, wp: Floats, wm: Floats
) -> None:
    """A half's sums of w * x * q and w * q * q, with the eighths added and taken off."""
    last = sums_x.shape[0] - 1
    plus, minus = F(1) + DELTA, F(1) - DELTA
    for k in range(VECTOR):
        both = sums_x[i1, k] + sums_x[i2, k]
        xp[k] = sums_x[last, k] * plus - both
        xm[k] = sums_x[last, k] * minus - both
        w, w1, w2 = sums_w[last, k], sums_w[i1, k], sums_w[i2, k]
        # What a number adds to q * q on the lower of two levels, less that on the higher.
        wp[k] = w * plus * plus + w1 * F(0.75) + w2 * F(-1.25)
        wm[k] = w * minus * minus + w1 * F(1.25) + w2 * F(-0.75)


@apart
def _keep_better(
    xa: Floats, xb: Floats, wa: Floats, wb: Floats, now: np.int32, kept: Floats, cut: Integers
) -> None:
    """Rows of `kept`: the scale and how good it is, of the two halves' sums if that is better."""
    for k in range(VECTOR):
        xq, qq = xa[k] + xb[k], wa[k] + wb[k]
        s, b, c = kept[0, k], kept[1, k], cut[k]
        better = (qq > F(0)) & (xq * xq > b * qq)
        s = xq / qq if better else s
        b = s * xq if better else b
        c = now if better else c
        kept[0, k], kept[1, k], cut[k] = s, b, c


@inner
def _try_halves(sums_x: Floats, sums_w: Floats, kept: Floats, cut: Integers) -> None:
    """`cut` becomes 4 * (32 * i1 + i2), plus 2 and 1 where a half's eighths are taken off."""
    room = np.empty((8, VECTOR), F)
    for i1 in range(sums_x.shape[1]):
        for i2 in range(i1, sums_x.shape[1]):
            for half in range(2):
                own = room[4 * half : 4 * half + 4]
                _sum_cut(i1, i2, sums_x[half], sums_w[half], own[0], own[1], own[2], own[3])
            for c in range(4):
                a, b = c >> 1, 4 + (c & 1)
                now = I(4 * (32 * i1 + i2) + c)
                _keep_better(room[a], room[b], room[a + 2], room[b + 2], now, kept, cut)


@compiled
def cut_16(x: Floats, w: Floats) -> tuple[Floats, NDArray[np.int8], NDArray[np.int8]]:
    """(scales [N], levels 0 to 2 [N, 16], the eighths' signs [N, 2]) of IQ1_M, as `cut_32`."""
    count, n = x.shape
    scales, levels = np.zeros(count, F), np.ones((count, n), np.int8)
    signs = np.zeros((count, 2), np.int8)
    some_x, some_w = np.zeros((n, VECTOR), F), np.zeros((n, VECTOR), F)
    places, cut, kept = np.zeros((n, VECTOR), I), np.zeros(VECTOR, I), np.zeros((2, VECTOR), F)
    sums_x, sums_w = np.zeros((2, n + 1, VECTOR), F), np.zeros((2, n + 1, VECTOR), F)
    for first in range(0, count, VECTOR):
        blocks = min(VECTOR, count - first)
        _sort_blocks(x[first : first + blocks], w[first : first + blocks], some_x, some_w, places)
        for half in range(2):
            _add_up_halves(some_x, some_w, places, half, sums_x[half], sums_w[half])
        for k in range(VECTOR):
            kept[1, k], cut[k] = -_HUGE, -1
        _try_halves(sums_x, sums_w, kept, cut)
        for k in range(blocks):
            if cut[k] >= 0:
                scales[first + k] = kept[0, k]
                signs[first + k, 0] = 1 if cut[k] & 3 < 2 else -1
                signs[first + k, 1] = 1 if cut[k] & 1 == 0 else -1
                i1, i2 = cut[k] >> 7, cut[k] >> 2 & 31
                for i in range(n):
                    levels[first + k, places[i, k]] = 0 if i < i1 else 1 if i < i2 else 2
    return scales, levels, signs


@compiled
def fit_superblocks(
    x: Floats, w: Floats, points: Integers, signs: NDArray[np.int8], codes: Codes, d: Floats
) -> None:
    """Make the scales d [S] of superblocks those that fit their points best, given the blocks'
    codes [S, 16]; x, w [S, 256], points and signs [S, 32]."""
    for s in range(len(d)):
        xq = qq = F(0)
        for i in range(x.shape[1]):
            g = i // 8
            q = F((points[s, g] >> 2 * (i % 8) & 3) - 1) + F(signs[s, g]) * DELTA
            q = q * F(2 * I(codes[s, i // 16]) + 1)
            xq += w[s, i] * q * x[s, i]
            qq += w[s, i] * q * q
        if qq > F(0):
            d[s] = xq / qq


@inner
def _nearest_alone(
    x: Floats, w: Floats, values: Floats, members: Integers, errors: Floats
) -> np.int32:
    """The first of the members with the least error, of levels that stand for `values`."""
    for j in range(members.size):
        p = members[j]
        error = F(0)
        for i in range(8):
            level = p >> 2 * i & 3
            q = values[0] if level == 0 else values[1] if level == 1 else values[2]
            off = q - x[i]
            error += w[i] * off * off
        errors[j] = error
    found, best = I(members[0]), _HUGE
    for j in range(members.size):
        if errors[j] < best:
            best, found = errors[j], I(members[j])
    return found


@compiled
def choose_points(
    x: Floats, w: Floats, levels: NDArray[np.int8], signs: NDArray[np.int8], scales: Floats,
    near: Near,
) -> Integers:  # fmt: skip
    """Packed points [N, n / 8] of blocks whose scales [N] are above 0; these then fit the points.

    `signs` [N, n / 8] are of the eighths.
    """
    count, groups = signs.shape
    points, errors, values = np.zeros((count, groups), I), np.empty(1024, F), np.empty(3, F)
    for b in range(count):
        off = False
        for g in range(groups):
            if signs[b, g] == 0:
                continue
            p = I(0)
            for i in range(8):
                p |= I(levels[b, 8 * g + i]) << 2 * i
            members = near.members[near.starts[p] : near.starts[p + 1]]
            points[b, g] = p
            if members[0] != p:
                off = True
                for level in range(3):
                    values[level] = scales[b] * (F(level - 1) + F(signs[b, g]) * DELTA)
                part = slice(8 * g, 8 * g + 8)
                points[b, g] = _nearest_alone(x[b, part], w[b, part], values, members, errors)
        if off:
            xq = qq = F(0)
            for i in range(8 * groups):
                q = F((points[b, i // 8] >> 2 * (i % 8) & 3) - 1) + F(signs[b, i // 8]) * DELTA
                xq += w[b, i] * q * x[b, i]
                qq += w[b, i] * q * q
            if xq > F(0) and qq > F(0):
                scales[b] = xq / qq
    return points
