"""The scales of superblocks: ggml's least squares over the scales of their blocks.

ggml-quants.c of llama.cpp 0c1e57098: make_qp_quants. All arithmetic is float32 without
contraction, in ggml's order.
"""

from __future__ import annotations

import numpy as np

from secateur.formats.ggml.search_kernels import SMALLEST_BLOCK, Codes, F, Floats, I
from secateur.system.jit import compiled, inlined


@inlined
def round_to_int(value: np.float32) -> np.int32:
    """The same as search_kernels.round_to_int, which numba must not take from another file: it
    would not compile anew here when that one changes."""
    return I(np.float32(value + F(12582912.0)).view(np.int32) & I(0x7FFFFF)) - I(0x400000)


@compiled
def fit_positive(  # noqa: PLR0912 - a kernel has its loops
    x: Floats, w: Floats, most: np.float32, codes: Codes, scales: Floats
) -> None:
    """Scales d of x ~ d * code for the rows of x and w [S, n], none negative; codes [S, n].

    One row after the other: too short, and too full of branches, to be worth SIMD.
    """
    top = I(most)
    zero = F(0)
    for s in range(x.shape[0]):
        high = zero
        for i in range(x.shape[1]):
            high = x[s, i] if x[s, i] > high else high
        if high < SMALLEST_BLOCK:
            codes[s] = 0
            scales[s] = zero
            continue
        factor = most / high
        plain = F(1) / factor
        best = zero
        for i in range(x.shape[1]):
            off = x[s, i] - plain * F(np.uint8(round_to_int(factor * x[s, i])))
            best += w[s, i] * off * off
        for step in range(-4, 5):
            if step == 0:
                continue
            other = (F(0.1) * F(step) + most) / high
            scale = F(1) / other
            now = zero
            for i in range(x.shape[1]):
                off = x[s, i] - scale * F(min(top, round_to_int(other * x[s, i])))
                now += w[s, i] * off * off
            if now < best:
                best, factor = now, other
        lx = l2 = zero
        for i in range(x.shape[1]):
            code = min(top, round_to_int(factor * x[s, i]))
            codes[s, i] = code
            lx += w[s, i] * x[s, i] * F(code)
            l2 += w[s, i] * F(code) * F(code)
        for _ in range(5):
            changed = False
            for i in range(x.shape[1]):
                old = F(codes[s, i])
                less_x = lx - w[s, i] * x[s, i] * old
                less_2 = l2 - w[s, i] * old * old
                if less_x > zero and less_2 > zero:
                    code = min(top, round_to_int(x[s, i] * less_2 / less_x))
                    if code != I(codes[s, i]):
                        less_x += w[s, i] * x[s, i] * F(code)
                        less_2 += w[s, i] * F(code) * F(code)
                        if less_x * less_x * l2 > lx * lx * less_2:
                            codes[s, i] = code
                            lx, l2, changed = less_x, less_2, True
            if not changed:
                break
        scales[s] = lx / l2 if l2 > zero else zero


@compiled
def sum_squares(x: Floats, span: int) -> Floats:
    """float32 [len(x) / span]: sums of squares over the span, added in order."""
    count = x.size // span
    found = np.zeros(count, F)
    side = 8
    for first in range(0, count, side):
        last = min(first + side, count)
        for e in range(span):
            for s in range(first, last):
                found[s] += x[s * span + e] * x[s * span + e]
    return found
