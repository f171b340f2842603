"""What an error in one column is worth in the others: the factor of a Gram matrix.

The squared error that rounding W [R, C] to Q adds to a linear layer's outputs, over its inputs X
[T, C], is the trace of (W - Q) H (W - Q)^T with the Gram matrix H = X^T X. With H = F F^T, F upper
triangular, it is the sum of the squares of (W - Q) F, of which column j depends on columns up to j
only. So columns are rounded one after the other, each to what makes up for those before it:

    q[j] = round(w[j] + sum over i < j of (w[i] - q[i]) F[i, j] / F[j, j])

That is the error feedback of GPTQ (arXiv 2210.17323, algorithm 1), whose Cholesky factor of the
inverse of H is the inverse of F: the same numbers, with no inverse to compute. As there, H is
damped by a share of its mean diagonal. Groups of columns that share a scale are taken by falling
mean diagonal, and columns in a group by falling diagonal; as they lie in the file, where neighbours
share a code.

What makes up for column j is a regression of its inputs on those of the columns that follow, and
F[j, j] ** 2 is what that leaves of them. From few tokens a regression finds what is not there, so
it is a ridge regression in units of each column, H = X^T X + C / T diag(X^T X): as if C more tokens
had been seen in which columns have nothing to do with each other. The ridge of Hoerl, Kennard and
Baldwin (Communications in Statistics 4, 1975), p s^2 / b^T b for p standardised predictors, is
p / T where a regression explains half, as it does here; p is C / 2 on average, and tokens of one
text, which resemble each other, count about half. The fewer tokens, the less is fed back.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.rounding.blas import one_blas_thread
from secateur.rounding.cholesky import BLOCK, lower_factor


class Groups(NamedTuple):
    """How a type divides a row: columns that share a scale, and whether the columns of a group stay
    in the order of the file, since some of them share a code."""

    size: int
    in_file_order: bool = False


DAMPING = 0.03
"""Of the mean diagonal; from 0.003 to 0.1 it hardly matters (docs/log.md)."""

LEAST_TOKENS = 16
"""From fewer, not even the sizes of columns are known, and nearest was as good or better."""


class Factor(NamedTuple):
    """The order in which C columns are rounded, and the feedback between them."""

    order: NDArray[np.intp]
    """[C]: columns, group after group"""
    feedback: NDArray[np.float32]
    """[C, C]: F[i, j] / F[j, j] for columns in that order; only i < j counts"""
    weight: NDArray[np.float32]
    """[C]: what the square of a column's own error costs, F[j, j] ** 2 over the mean diagonal"""


def factorize(
    gram: NDArray[np.floating], groups: Groups, tokens: int, threads: int = 1
) -> Factor | None:
    """The factor of a Gram matrix [C, C] of so many tokens' inputs; None for inputs that were
    always zero, and for fewer tokens than LEAST_TOKENS.

    Any multiple of the matrix gives the same, and so does any number of threads. Only its upper
    triangle is read. A matrix that rounding has left indefinite (inputs below the unit of
    statistics.gram) is damped more, by tenfold steps. Peak memory: three times the matrix in
    float32.
    """
    diagonal = np.diagonal(gram).astype(np.float64)
    mean = diagonal.mean()
    if not mean > 0 or tokens < LEAST_TOKENS:
        return None
    order = order_columns(diagonal, groups)
    # Reversed, so that the lower factor of it is the upper one of the matrix, reversed.
    turned = order[::-1]
    with one_blas_thread():
        lower = _lower_factor(
            _symmetric(gram), turned, damping_of(diagonal, tokens)[turned], threads
        )
    own = np.diagonal(lower).copy()
    lower /= own
    feedback = np.ascontiguousarray(lower[::-1, ::-1])
    weight = own[::-1].astype(np.float64) ** 2 / mean
    return Factor(order, feedback, weight.astype(np.float32))


def _symmetric(gram: NDArray[np.floating]) -> NDArray[np.float32]:
    """The whole matrix of its upper triangle."""
    whole = gram.astype(np.float32)
    for first in range(0, len(whole), BLOCK):
        last = first + BLOCK
        own = np.triu(whole[first:last, first:last])
        whole[first:last, first:last] = own + np.triu(own, 1).T
        whole[last:, first:last] = whole[first:last, last:].T
    return whole


def _lower_factor(
    whole: NDArray[np.float32],
    turned: NDArray[np.intp],
    damping: NDArray[np.float64],
    threads: int,
) -> NDArray[np.float32]:
    """The factor of the matrix in the order asked for, damped; the more, where there is none
    otherwise."""
    while True:
        matrix = whole[np.ix_(turned, turned)]
        diagonal = np.einsum("ii->i", matrix)
        diagonal += damping.astype(np.float32)
        try:
            return lower_factor(matrix, threads)
        except np.linalg.LinAlgError:
            damping = 10 * damping


def damping_of(diagonal: NDArray[np.float64], tokens: int) -> NDArray[np.float64]:
    """[C]: what is added to the diagonal of a Gram matrix of so many tokens. Columns that were
    always zero take part in no regression."""
    ridge = np.count_nonzero(diagonal) / tokens * diagonal
    return np.asarray(ridge + DAMPING * diagonal.mean())


def order_columns(diagonal: NDArray[np.float64], groups: Groups) -> NDArray[np.intp]:
    """[C]: groups by falling mean, and the columns of each by falling diagonal or as they lie."""
    by_group = diagonal.reshape(-1, groups.size)
    inside = np.zeros_like(by_group) if groups.in_file_order else -by_group
    columns = np.argsort(inside, axis=1, kind="stable")
    columns += groups.size * np.arange(len(by_group))[:, None]
    return columns[np.argsort(-by_group.mean(1), kind="stable")].reshape(-1)
