"""The Cholesky factor of a large matrix, block by block, so that several threads can make it.

A thread that needs the factor of a matrix has the others wait for it, so they take part. A block's
column is what is left of it after the columns before, solved against its own factor; rows of it do
not depend on each other. The blocks are the same whatever the threads, and so are the bits.

In float32, but for the blocks on the diagonal. The error of an entry is a few units in the last
place of the root of its row's and its column's entry on the diagonal (Higham, Accuracy and
Stability of Numerical Algorithms, theorem 10.3), thousands of times less than what damping adds.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

BLOCK = 256
"""Columns of a block."""
_ROWS = 2 * BLOCK
"""Rows that a thread takes at once."""


def lower_factor(matrix: NDArray[np.float32], threads: int = 1) -> NDArray[np.float32]:
    """L of matrix [C, C] = L L^T, in the memory of the matrix, of which what is above the diagonal
    is not read; there are zeros afterwards.

    Raises numpy.linalg.LinAlgError for a matrix that is not positive definite, and leaves it half
    done. The caller sees to it that BLAS computes in one thread (blas.py). Where several threads
    are asked for, they begin and end here.
    """
    columns = len(matrix)
    with ThreadPoolExecutor(threads) as pool:
        each = pool.map if threads > 1 and columns > 2 * _ROWS else map
        for first in range(0, columns, BLOCK):
            last = min(first + BLOCK, columns)
            before = matrix[first:last, :first]
            inverse = _factor_own(matrix[first:last, first:last], before)
            matrix[first:last, last:] = 0
            column = matrix[last:, first:last], matrix[last:, :first]
            starts = range(0, columns - last, _ROWS)
            list(each(partial(_solve, column, before, inverse), starts))
    return matrix


def _factor_own(own: NDArray[np.float32], before: NDArray[np.float32]) -> NDArray[np.float32]:
    """Factor a block on the diagonal in place; returns the inverse of its factor, transposed."""
    from scipy.linalg import solve_triangular  # the help pages, which import this, do not wait

    own -= before @ before.T
    factor = np.linalg.cholesky(own.astype(np.float64))
    own[:] = factor
    inverse = solve_triangular(factor, np.eye(len(factor)), lower=True, check_finite=False)
    return np.ascontiguousarray(inverse.T, dtype=np.float32)


def _solve(
    column: tuple[NDArray[np.float32], NDArray[np.float32]],
    before: NDArray[np.float32],
    inverse: NDArray[np.float32],
    start: int,
) -> None:
    """Some rows of a block's column below the diagonal, of what they are and what stands before
    them."""
    mine, left = (part[start : start + _ROWS] for part in column)
    mine[:] = (mine - left @ before.T) @ inverse
