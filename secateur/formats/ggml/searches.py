"""How ggml searches for a block's scale: what is tried, and how much an error counts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

F = np.float32


class Trials(NamedTuple):
    """Which scales are tried: those for which the codes would reach to `most` and this more."""

    first: np.float32
    step: np.float32
    last: int
    """their number, less one"""


# How much a number's error counts: root mean square and its size, its size, its square, its
# column's importance, that times the root of the mean and its own square.
NEAR_ZERO_LESS, SIZE, SQUARE, IMPORTANCE, IMPORTANCE_AND_SIZE = range(5)

# What the codes stand for.
AFFINE, SYMMETRIC, NONLINEAR = range(3)


class Search(NamedTuple):
    """How blocks of `n` numbers are searched."""

    n: int
    kind: int
    most: np.float32
    """the largest code (affine), or half their number (symmetric)"""
    weighing: int
    trials: Trials = Trials(F(-0.9), F(0.05), 36)
    """of affine searches; these are ggml's with an importance"""
    absolute: bool = False
