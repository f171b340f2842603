"""What the solver needs to know of a scalar type: read this first to add one.

In a scalar type every number is stored by itself, as the code of a level that the numbers of its
group share a scale and an offset for:

    number = scale * level + offset

The type's encoder chooses scales and offsets; the solver (feedback.py) then chooses the levels. A
grid is the entry of one type in GGML_GRIDS (ggml_grids.py) or `mlx_grid` (mlx_grids.py).

Shapes: R rows of C numbers, L levels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]
E = TypeVar("E")


@dataclass(frozen=True)
class Levels:
    """The levels of a type, ascending float32 [L]; a code of the solver is a place among them."""

    values: Floats = field(repr=False)

    @property
    def uniform(self) -> bool:
        """Whether they are one apart, as integers are."""
        return bool((np.diff(self.values) == 1).all())


class Scales(NamedTuple):
    """float32 [R, C / group] each: number = scale * level + offset."""

    scale: Floats
    offset: Floats


class Grid(Protocol[E]):
    """One scalar type. `E` is what its encoder makes of rows [R, C]."""

    @property
    def levels(self) -> Levels:
        """What the codes stand for."""
        ...

    @property
    def group(self) -> int:
        """Neighbours in a row that share a scale and an offset."""
        ...

    def scales(self, encoded: E, columns: int) -> Scales:
        """The scales that encoded rows hold, as readers decode them."""
        ...

    def with_codes(self, encoded: E, codes: Codes) -> E:
        """The same scales with other codes [R, C], places among the levels; as many bytes."""
        ...


def integers(least: int, most: int) -> Levels:
    """Levels one apart, both ends included."""
    return Levels(np.arange(least, most + 1, dtype=np.float32))
