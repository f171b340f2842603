"""The Cholesky factor that several threads make: in float32, against LAPACK's in float64."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from secateur.rounding.cholesky import BLOCK, lower_factor
from secateur.rounding.factor import Groups, damping_of, factorize, order_columns

TOKENS = 4000
SIZES = (1, 7, BLOCK, BLOCK + 1, 5 * BLOCK - 3)


def gram_of(columns: int, spread: float) -> NDArray[np.float32]:
    """Of inputs that depend on each other, the largest `spread` times as large as the least."""
    chance = np.random.default_rng(columns)
    mixed = chance.standard_normal((TOKENS, 32)) @ chance.standard_normal((32, columns))
    inputs = (mixed + chance.standard_normal(mixed.shape)) * np.geomspace(1, spread, columns)
    return (inputs.T @ inputs).astype(np.float32)


@pytest.mark.parametrize("columns", SIZES)
def test_it_is_the_factor_of_the_matrix(columns: int) -> None:
    matrix = gram_of(columns, 10) + 100 * np.eye(columns, dtype=np.float32)
    read = np.tril(matrix) + np.triu(np.full_like(matrix, np.nan), 1)
    lower = lower_factor(read)
    assert (np.triu(lower, 1) == 0).all()
    exact = np.linalg.cholesky(matrix.astype(np.float64))
    size = np.sqrt(np.diagonal(matrix))
    assert (abs(lower - exact) <= 2e-4 * size[:, None]).all()


def test_threads_change_no_bit() -> None:
    matrix = gram_of(8 * BLOCK, 10) + 100 * np.eye(8 * BLOCK, dtype=np.float32)
    one, three = lower_factor(matrix.copy()), lower_factor(matrix.copy(), 3)
    assert np.array_equal(one, three)


def test_a_matrix_that_is_not_positive_definite_is_told() -> None:
    matrix = gram_of(2 * BLOCK, 10)
    matrix[-1, -1] = -1
    with pytest.raises(np.linalg.LinAlgError):
        lower_factor(matrix)


@pytest.mark.parametrize("spread", [1, 1000])
def test_what_is_fed_back_is_what_float64_feeds_back(spread: float) -> None:
    """Also where some columns are a million times larger than others by their squares."""
    gram = gram_of(3 * BLOCK, spread)
    found = factorize(gram, Groups(32), TOKENS)
    assert found is not None
    diagonal = np.diagonal(gram).astype(np.float64)
    whole = np.triu(gram).astype(np.float64)
    whole += np.triu(whole, 1).T + np.diag(damping_of(diagonal, TOKENS))
    turned = order_columns(diagonal, Groups(32))[::-1]
    upper = np.linalg.cholesky(whole[np.ix_(turned, turned)])[::-1, ::-1]
    own = np.diagonal(upper)
    assert np.allclose(found.weight, own**2 / diagonal.mean(), rtol=1e-3)
    # What an error of column i, as large as its own step, adds to column j in its.
    size = np.sqrt(diagonal[found.order])
    theirs = upper / own * size[None, :] / size[:, None]
    ours = found.feedback * size[None, :] / size[:, None]
    assert abs(np.triu(ours - theirs, 1)).max() < 1e-3 * abs(theirs).max()
