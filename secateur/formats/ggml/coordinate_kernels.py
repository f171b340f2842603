"""ggml's search for the scales of Q3_K without an importance, bit for bit.

From the codes of a plain scale on, ggml gives one number after the other the code that is best
with all others held, up to five times (make_q3_quants of ggml-quants.c, llama.cpp 0c1e57098; each
number counts by its square). Here VECTOR blocks take the same steps at once; a round in which
nothing changes changes nothing in the next one either, so all take five. Float32 without
contraction, in ggml's order.
"""

from __future__ import annotations

import numpy as np

from secateur.formats.ggml.search_kernels import SMALLEST_BLOCK, Codes, F, Floats, I
from secateur.system.jit import apart, compiled, inlined

VECTOR = 64
_ROUNDS = 5
_LEAST, _MOST = I(-4), I(3)


@inlined
def _clip_code(value: np.float32) -> np.int32:
    """search_kernels.clip_code from -4 to 3, which numba must not take from another file: it
    would not compile anew here when that one changes."""
    found = I(I(np.float32(value + F(12582912.0)).view(np.int32) & I(0x7FFFFF)) - I(0x400000))
    found = _MOST if found > _MOST else found
    return _LEAST if found < _LEAST else found


@apart
def _start(x: Floats, size: Floats, factor: Floats, codes: Floats, xq: Floats, qq: Floats) -> None:
    """Largest magnitudes, and the plain scale's codes with the sums of w * x * q and w * q * q."""
    for k in range(VECTOR):
        size[k] = factor[k] = xq[k] = qq[k] = F(0)
    for i in range(x.shape[0]):
        for k in range(VECTOR):
            larger = abs(x[i, k]) > size[k]
            factor[k] = x[i, k] if larger else factor[k]
            size[k] = abs(x[i, k]) if larger else size[k]
    for k in range(VECTOR):
        factor[k] = F(-4) / factor[k]
    for i in range(x.shape[0]):
        for k in range(VECTOR):
            q = F(_clip_code(factor[k] * x[i, k]))
            w = x[i, k] * x[i, k]
            codes[i, k] = q
            xq[k] += w * x[i, k] * q
            qq[k] += w * q * q


@apart
def _improve(x: Floats, codes: Floats, xq: Floats, qq: Floats) -> None:
    """One round over the numbers of all blocks."""
    for i in range(x.shape[0]):
        for k in range(VECTOR):
            v, old, now_x, now_q = x[i, k], codes[i, k], xq[k], qq[k]
            w = v * v
            less_x, less_q = now_x - w * v * old, now_q - w * old * old
            new = F(_clip_code(v * less_q / less_x))
            more_x, more_q = less_x + w * v * new, less_q + w * new * new
            better = (less_x > F(0)) & (new != old) & (more_q > F(0))
            better &= more_x * more_x * now_q > now_x * now_x * more_q
            codes[i, k] = new if better else old
            xq[k] = more_x if better else now_x
            qq[k] = more_q if better else now_q


@compiled
def search_coordinates(x: Floats) -> tuple[Floats, Codes]:
    """(scales [N], codes [N, n] from 0 on) of blocks x [N, n], x ~ scale * (code - 4)."""
    count, n = x.shape
    scales, found = np.zeros(count, F), np.zeros(x.shape, np.uint8)
    vectors, codes = np.zeros((n, VECTOR), F), np.zeros((n, VECTOR), F)
    room = np.zeros((4, VECTOR), F)
    size, factor, xq, qq = room[0], room[1], room[2], room[3]
    for first in range(0, count, VECTOR):
        blocks = min(VECTOR, count - first)
        for k in range(blocks):
            for i in range(n):
                vectors[i, k] = x[first + k, i]
        _start(vectors, size, factor, codes, xq, qq)
        for _ in range(_ROUNDS):
            _improve(vectors, codes, xq, qq)
        for k in range(blocks):
            if size[k] >= SMALLEST_BLOCK:
                scales[first + k] = xq[k] / qq[k] if qq[k] > F(0) else F(0)
                for i in range(n):
                    found[first + k, i] = np.uint8(I(codes[i, k]) + I(4))
    return scales, found
