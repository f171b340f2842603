"""Replies that end in one piece of text, again and again: the common form of a loop.

A text with n pieces ends in a repetition of period p where its last pieces are those p before
them. Every period is tried; of the longest repetition, the shortest period is the loop's. That a
reply *ends* so is what tells a loop from a table or a refrain, which are followed by something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.evaluation.robustness.detectors.base import (
    Exchange,
    Finding,
    Group,
    Part,
    quote,
    strongest,
)
from secateur.evaluation.robustness.units import hide_numbers, split_units

_LONGEST_PERIOD = 800
_LEAST_COPIES = 3.0
"""What stands there twice was said twice."""
_WORDS = 6
"""Words that a period needs where numbers are hidden: a list of numbers is no loop."""


@dataclass(frozen=True)
class RepeatedSuffix:
    """The reply ends in copies of one piece of text; `strength` counts the pieces that repeat.

    With `numbered`, copies may differ in their numbers ("Step 12: ...", "Step 13: ...").
    """

    name: str
    title: str
    threshold: float
    numbered: bool = False
    unit: str = "pieces repeated"
    group: Group = "loop"

    def find(self, exchange: Exchange) -> Finding | None:
        return strongest(
            {part: self._find(part, text, exchange.copies) for part, text in exchange.texts()}
        )

    def _find(self, part: Part, text: str, asked: int) -> Finding | None:
        units = split_units(text.rstrip())
        if self.numbered:
            units = hide_numbers(units)
        # A limit of tokens cuts within a word: without the last piece it may be the same again.
        ends = (len(units), len(units) - 1)
        end, period, repeated = max(
            ((end, *_longest_period(units.ids[:end])) for end in ends if end > 0),
            key=lambda one: sum(one[1:]),
            default=(0, 0, 0),
        )
        copies = (repeated + period) / period if period else 0
        if copies < _LEAST_COPIES or copies <= asked + 1:
            return None
        if self.numbered and _words(units.pieces[end - period : end]) < _WORDS:
            return None
        begins = int(units.starts[end - repeated - period])
        unit = text[begins : int(units.starts[end - repeated])]
        differing = " but for numbers" if self.numbered else ""
        return Finding(
            self.name,
            float(repeated),
            part,
            begins,
            f"ends in {quote(unit)} {copies:.1f} times over{differing}",
        )


def _words(pieces: Sequence[str]) -> int:
    return sum(piece[0].isalpha() for piece in pieces)


def _longest_period(ids: NDArray[np.intp]) -> tuple[int, int]:
    """The period whose repetition at the end is the longest, and the pieces that repeat: (0, 0)
    where nothing does. The shortest of those within one another's period."""
    best = (0, 0)
    longest = min(_LONGEST_PERIOD, len(ids) // 2)
    for period in range(1, longest + 1):
        if ids[-1] != ids[-1 - period]:
            continue
        same = ids[period:] == ids[:-period]
        differ = np.flatnonzero(~same)
        repeated = len(same) - 1 - int(differ[-1]) if len(differ) else len(same)
        # A multiple of a period repeats as long, less the pieces that it is longer by.
        if repeated + period > sum(best) and repeated >= 2 * period:
            best = period, repeated
    return best


DETECTORS = (
    RepeatedSuffix("repeated_suffix", "ends in a repetition", threshold=24),
    RepeatedSuffix(
        "numbered_suffix", "ends in a repetition but for numbers", threshold=200, numbered=True
    ),
)
