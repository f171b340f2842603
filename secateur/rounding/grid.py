"""What the solvers need to know of a type: read this first to add one.

A type rounds rows that its encoder has encoded (`Grid`). In a scalar type every number is stored by
itself, as the code of a level that the numbers of its group share a scale and an offset for:

    number = scale * level + offset

The type's encoder proposes scales and offsets; the solver (feedback.py) takes those near them that
cost least, and chooses the levels. A scalar grid is the entry of one type in GGML_GRIDS
(ggml_grids.py) or an `MlxGrid` (mlx_grids.py). In a codebook type several numbers are one point
(codebook_grids.py).

Shapes: R rows of C numbers, G groups of a row, L levels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from secateur.rounding.factor import Factor, Groups

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]
E = TypeVar("E")

STEPS = (0, -1, 1, -2, 2)
"""How far from the encoder's own scale or offset others are tried, in steps of the type."""
SPAN_STEP, OFFSET_STEP = 0.4, 0.2
"""Where scales and offsets are floats: a step of the scale moves the last level by this much of a
level's width, a step of the offset all of them (docs/log.md)."""
LANES = 64
"""Rows that the solver's loops take at once."""
LARGEST_HALF = np.float32(65504)
"""The largest number of float16."""


@dataclass(frozen=True)
class Levels:
    """The levels of a type, ascending float32 [L]; a code of the solver is a place among them."""

    values: Floats = field(repr=False)

    @property
    def uniform(self) -> bool:
        """Whether they are one apart, as integers are."""
        return bool((np.diff(self.values) == 1).all())


class Scales(NamedTuple):
    """float32 [R, G] each: number = scale * level + offset."""

    scale: Floats
    offset: Floats


class Choices(NamedTuple):
    """What the type can store near the encoder's own scales and offsets, which come first: float32
    [scales to try, R, G] and [offsets to try, R, G]."""

    scale: Floats
    offset: Floats


Choose = Callable[[Floats, Choices, Levels, Factor], tuple[Codes, Scales]]
"""What chooses the codes of a scalar type: feedback.choose, or a device in its place."""


class Grid(Protocol[E]):
    """One type. `E` is what its encoder makes of rows [R, C]."""

    @property
    def groups(self) -> Groups:
        """How it divides a row."""
        ...

    def round(self, rows: Floats, encoded: E, factor: Factor, choose: Choose | None = None) -> E:
        """Encoded rows [R, C] with codes that make up for each other's errors, and scales to suit;
        as many bytes. `factor` is made for the type's groups; a scalar type lets `choose` choose
        (None: a core of the CPU)."""
        ...


class ScalarGrid(Grid[E], Protocol):
    """One scalar type."""

    @property
    def levels(self) -> Levels:
        """What the codes stand for."""
        ...

    def choices(self, encoded: E, columns: int) -> Choices:
        """The scales and offsets to try, as readers decode them."""
        ...

    def with_numbers(self, encoded: E, codes: Codes, scales: Scales) -> E:
        """What the encoder made with other codes [R, C], places among the levels, and scales and
        offsets out of the choices; as many bytes."""
        ...


def integers(least: int, most: int) -> Levels:
    """Levels one apart, both ends included."""
    return Levels(np.arange(least, most + 1, dtype=np.float32))


def near(values: Floats, step: Floats | float) -> Floats:
    """float32 [len(STEPS), ...]: values at so many steps from their own."""
    return np.stack([values + np.float32(number) * step for number in STEPS])
