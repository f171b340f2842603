"""What torch does in many calls, in one: each goes over its rows once, without Python's lock.

Every call into torch gives Python's lock away and waits for it again. Where an operation takes a
tenth of a millisecond, two threads were 1.5 times as fast as one because of that (docs/log.md).

Shapes: n rows of H numbers, all C-contiguous. None of these uses memory beyond a row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateur.system.jit import compiled, reordered

Floats = NDArray[np.float32]
Blocks = NDArray[np.float32]
"""of three axes"""
Doubles = NDArray[np.float64]
Places = NDArray[np.int64]
Bits = NDArray[np.int32]


@compiled
def add_scaled(total: Floats, rows: Places, scales: Floats, values: Floats, first: int) -> None:
    """total[rows[first + i]] += scales[first + i] * values[i], for every row i of `values`.

    Two roundings per number, as torch's product and sum have.
    """
    for i in range(values.shape[0]):
        row, scale = rows[first + i], scales[first + i]
        for j in range(values.shape[1]):
            total[row, j] += scale * values[i, j]


@compiled
def add_squares(total: Doubles, values: Floats, owners: Places, first: int) -> None:
    """total[owners[first + i], j] += values[i, j]**2; float32 squares, float64 sums.

    A row whose owner is negative is left out.
    """
    for i in range(values.shape[0]):
        owner = owners[first + i]
        if owner >= 0:
            for j in range(values.shape[1]):
                total[owner, j] += np.float64(values[i, j] * values[i, j])


@reordered
def note_sizes(norms: Doubles, largest: Bits, values: Floats, bits: Bits, first: int) -> None:
    """Norm and largest absolute number of row i, at [first + i]; float32 squares, float64 sums.

    `bits` are those of the values, and `largest` those of the results: without their sign, they
    are in the order of the numbers, infinity and NaN last.
    """
    for i in range(values.shape[0]):
        square, most = 0.0, np.int32(0)
        for j in range(values.shape[1]):
            square += np.float64(values[i, j] * values[i, j])
            most = max(most, bits[i, j] & np.int32(0x7FFFFFFF))
        norms[first + i] = np.sqrt(square)
        largest[first + i] = most


@compiled
def rotate(found: Blocks, values: Blocks, cos: Floats, sin: Floats) -> None:
    """found[i, h] = values[i, h] * cos[l] + (minus its right half, its left half) * sin[l], for all
    heads h of token i, whose place in its document is l = i modulo the rows of `cos`.

    Three roundings per number, as torch's products and sum have.
    """
    half = values.shape[2] // 2
    for i in range(values.shape[0]):
        place = i % cos.shape[0]
        for h in range(values.shape[1]):
            for j in range(half):
                left, right = values[i, h, j], values[i, h, half + j]
                found[i, h, j] = left * cos[place, j] - right * sin[place, j]
                found[i, h, half + j] = right * cos[place, half + j] + left * sin[place, half + j]


@reordered
def rms_norm(found: Floats, values: Floats, weight: Floats, eps: float) -> None:
    """found[i] = values[i] / sqrt(mean(values[i]**2) + eps) * weight; an empty weight is ones.

    Float32 squares, float64 means; products in the order of transformers' modules.
    """
    for i in range(values.shape[0]):
        square = 0.0
        for j in range(values.shape[1]):
            square += np.float64(values[i, j] * values[i, j])
        scale = np.float32(1.0 / np.sqrt(square / values.shape[1] + eps))
        if weight.shape[0]:
            for j in range(values.shape[1]):
                found[i, j] = values[i, j] * scale * weight[j]
        else:
            for j in range(values.shape[1]):
                found[i, j] = values[i, j] * scale
