"""Where the labels of a crowded chart stand, so that none lies on another or on another's mark.

A chart is as wide as its page. Labels are placed for the narrowest page there is: a wider one moves
columns apart and leaves heights as they are, so that what does not overlap there overlaps nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LINE = 12
"""Height of a label's line, in pixels."""
_DIGIT = 7
_GAP = 5
"""Pixels between the end of a column and its label."""


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, `logarithmic` or not."""

    low: float
    high: float
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, from 0 at `low` to 1 at `high`."""
        low, high, at = map(self._bend, (self.low, self.high, value))
        return (at - low) / (high - low)

    def value(self, share: float) -> float:
        """The value that lies there."""
        low, high = self._bend(self.low), self._bend(self.high)
        at = low + share * (high - low)
        return math.exp(at) if self.logarithmic else at

    def _bend(self, value: float) -> float:
        return math.log(value) if self.logarithmic else value


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, from the left and from the top."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether two rectangles have a point in common."""
        beside = self.right < other.left or other.right < self.left
        return not (beside or self.bottom < other.top or other.bottom < self.top)


@dataclass(frozen=True)
class Column:
    """A mark with its interval at `x`, from `top` to `bottom`, in pixels; its label is `text`."""

    x: float
    top: float
    bottom: float
    text: str

    @property
    def box(self) -> Box:
        return Box(self.x - 2, self.top, self.x + 2, self.bottom)

    def label(self, middle: float) -> Box:
        """The rectangle of its label, whose middle is at that height."""
        half = (len(self.text) * _DIGIT + 2) / 2
        return Box(self.x - half, middle - LINE / 2, self.x + half, middle + LINE / 2)

    def leader(self, middle: float) -> Box:
        """The line between its end and its label."""
        return Box(self.x, min(middle, self.top), self.x, max(middle, self.bottom))


def place_labels(
    columns: Sequence[Column], height: float, taken: Sequence[Box] = ()
) -> list[float]:
    """The height of each column's label, the middle of it in pixels from the top: as near to an end
    of its column as is free of `taken`, of other columns and labels, and of the lines between them.

    In a crowd lines may cross labels, which are drawn over them; where not even a label has a
    place, it stands right above its column.
    """
    found: list[float] = []
    labels, leaders = list(taken), list[Box]()
    for column in columns:
        others = [other.box for other in columns if other is not column]
        heights = [
            middle
            for middle in _heights(column, height)
            if not any(column.label(middle).meets(box) for box in (*labels, *others))
        ]
        uncrossed = (
            middle
            for middle in heights
            if not any(column.leader(middle).meets(box) for box in labels)
            and not any(column.label(middle).meets(box) for box in leaders)
        )
        middle = next(uncrossed, (heights or list(_heights(column, height)))[0])
        labels.append(column.label(middle))
        leaders.append(column.leader(middle))
        found.append(middle)
    return found


def _heights(column: Column, height: float) -> Iterator[float]:
    """The heights to try, the nearest to an end first; all of the chart."""
    for step in range(int(2 * height)):
        above, below = (column.top - _GAP - LINE / 2 - step, column.bottom + _GAP + LINE / 2 + step)
        if above >= LINE / 2:
            yield above
        if below <= height - LINE / 2:
            yield below
