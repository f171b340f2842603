"""Sums of floating-point numbers that do not depend on the order of adding.

Floating-point addition is not associative, so sums of shards would differ in their last bits
with the number of shards. Here a sum is a fixed-point number in two int64 limbs,

    value = high * 2**-8 + low * 2**-48,    0 <= low < 2**40

and adding is integer addition: exactly associative and commutative. Every float64 below 2**45
splits into the limbs with an error under 2**-49 (3.6e-15 absolute), once per added number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateur.errors import NumericError

HIGH_UNIT = 2.0**-8
LOW_BITS = 40
LOW_UNIT = HIGH_UNIT / 2**LOW_BITS
LARGEST = 2.0**45
"""Addends must stay below this; sums may grow to 2**54."""

Limbs = NDArray[np.int64]
"""int64 [2, ...]: high limbs, low limbs; an array of exact sums."""


def zeros(*shape: int) -> Limbs:
    """Exact sums of nothing."""
    return np.zeros((2, *shape), np.int64)


def limbs(values: NDArray[np.floating]) -> Limbs:
    """Numbers as exact sums of one addend each.

    Raises NumericError for NaN, infinity, or a number of 2**45 or more.
    """
    exact = np.asarray(values, np.float64)
    if not np.all(np.abs(exact) < LARGEST):
        raise NumericError(
            f"a statistic of {exact[~(np.abs(exact) < LARGEST)].flat[0]} cannot be summed "
            f"(NaN, infinity, or {LARGEST:.3g} and more): the activations overflow"
        )
    high = np.floor(exact / HIGH_UNIT)
    low = np.rint((exact - high * HIGH_UNIT) / LOW_UNIT)
    return _normal(np.stack([high.astype(np.int64), low.astype(np.int64)]))


def add(left: Limbs, right: Limbs) -> Limbs:
    """The exact sum of two arrays of exact sums."""
    return _normal(left + right)


def value(sums: Limbs) -> NDArray[np.float64]:
    """The sums as float64, rounded once."""
    return np.asarray(sums[0] * HIGH_UNIT + sums[1] * LOW_UNIT, np.float64)


def _normal(sums: Limbs) -> Limbs:
    """One representation per value, so that equal sums are equal bytes."""
    carry = sums[1] >> LOW_BITS
    sums[0] += carry
    sums[1] -= carry << LOW_BITS
    return sums
