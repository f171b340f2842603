"""Exact sums: the same bytes in any order and any grouping, and close to the true sum."""

from __future__ import annotations

from fractions import Fraction
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import NumericError
from secateur.statistics import exact

NUMBERS = st.floats(-(2.0**44), 2.0**44, allow_nan=False) | st.floats(-1e-6, 1e-6)


def summed(values: list[float]) -> exact.Limbs:
    return reduce(exact.add, (exact.limbs(np.array([v])) for v in values), exact.zeros(1))


@given(st.lists(NUMBERS, max_size=30), st.randoms(use_true_random=False), st.integers(0, 30))
def test_any_order_and_any_grouping_give_the_same_bytes(
    values: list[float], random: object, cut: int
) -> None:
    once = summed(values)
    mixed = list(values)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    grouped = exact.add(summed(mixed[:cut]), summed(mixed[cut:]))
    assert grouped.tobytes() == once.tobytes()
    swapped = exact.add(summed(mixed[cut:]), summed(mixed[:cut]))
    assert swapped.tobytes() == once.tobytes()


@given(st.lists(NUMBERS, max_size=30))
def test_a_sum_is_right_to_half_a_unit_per_number(values: list[float]) -> None:
    sums = summed(values)
    unit = Fraction(1, 2**48)
    got = Fraction(int(sums[0, 0]), 2**8) + int(sums[1, 0]) * unit
    wanted = sum((Fraction(value) for value in values), Fraction(0))
    assert abs(got - wanted) <= len(values) * unit * Fraction(501, 1000)
    assert 0 <= int(sums[1, 0]) < 2**exact.LOW_BITS
    rounded = float(got)
    assert exact.value(sums)[0] == pytest.approx(rounded, rel=4e-16, abs=0)


@given(st.lists(NUMBERS, min_size=1, max_size=10))
def test_equal_sums_are_equal_bytes(values: list[float]) -> None:
    cancelled = exact.add(summed(values), summed([-value for value in values]))
    # Splitting rounds to even, so that a number and its negative are each other's opposites.
    assert cancelled.tobytes() == exact.zeros(1).tobytes()


def test_sums_of_many_large_numbers_do_not_overflow() -> None:
    large = exact.limbs(np.full(3, 2.0**44))
    total = reduce(exact.add, [large] * 1000)
    assert exact.value(total).tolist() == [1000 * 2.0**44] * 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**45, -(2.0**45), 1e300])
def test_what_cannot_be_summed_is_refused(bad: float) -> None:
    with pytest.raises(NumericError, match="cannot be summed"):
        exact.limbs(np.array([1.0, bad]))


def test_shapes_are_kept_and_inputs_are_left_alone() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    left, right = exact.limbs(values), exact.limbs(values)
    assert left.shape == (2, 2, 3)
    before = left.copy()
    assert exact.value(exact.add(left, right)).tolist() == (2 * values).tolist()
    assert np.array_equal(left, before)
    assert exact.value(exact.zeros(2, 3)).tolist() == np.zeros((2, 3)).tolist()
