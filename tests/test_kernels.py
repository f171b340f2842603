"""The compiled loops against torch and numpy."""

from __future__ import annotations

import numpy as np
import pytest

from secateur.forward.kernels import add_scaled, add_squares, note_sizes

DRAW = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return DRAW.standard_normal(shape).astype(np.float32)


def test_scaled_rows_are_added_where_they_belong() -> None:
    total, values, scales = normal(9, 40), normal(5, 40), normal(12)
    rows = np.array([0, 0, 0, 8, 1, 8, 3, 2, 0, 0, 0, 0])
    expected = total.copy()
    for i in range(5):
        expected[rows[3 + i]] += scales[3 + i] * values[i]
    add_scaled(total, rows, scales, values, 3)
    assert np.array_equal(total, expected)


def test_squares_go_to_their_owners_and_others_nowhere() -> None:
    values = normal(6, 33)
    owners = np.array([5, 5, 1, 0, -1, 1, 1, 0])
    total = np.ones((2, 33))
    add_squares(total, values, owners, 2)
    squares = np.square(values).astype(np.float64)
    np.testing.assert_allclose(total[0], 1 + squares[[1, 5]].sum(0), rtol=1e-14)
    np.testing.assert_allclose(total[1], 1 + squares[[0, 3, 4]].sum(0), rtol=1e-14)


def test_norms_and_largest_magnitudes() -> None:
    values = normal(7, 130)
    values[2] = 0.0
    values[3, 64] = -50.0
    norms, largest = np.full(9, -1.0), np.full(9, -1.0, np.float32)
    note_sizes(norms, largest.view(np.int32), values, values.view(np.int32), 1)
    np.testing.assert_allclose(norms[1:8], np.linalg.norm(values.astype(float), axis=1), rtol=1e-7)
    assert np.array_equal(largest[1:8], np.abs(values).max(1))
    assert norms[0] == norms[8] == largest[0] == largest[8] == -1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows(bad: float) -> None:
    values = normal(3, 70)
    values[1, 69] = bad
    norms, largest = np.zeros(3), np.zeros(3, np.float32)
    note_sizes(norms, largest.view(np.int32), values, values.view(np.int32), 0)
    assert np.array_equal(np.isfinite(norms), [True, False, True])
    assert np.array_equal(np.isfinite(largest), [True, False, True])
