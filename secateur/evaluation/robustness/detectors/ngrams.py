"""Replies of which a stretch was said before: loops that vary, and loops that the model left.

The share of a window's words and numbers that lie in a run of 8 which stood in the reply before.
Marks do not count, nor do runs of numbers: code, tables and JSON repeat those, and runs of 3 or 4
words, seldom of 8 over a window.
"""

from __future__ import annotations

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
from secateur.evaluation.robustness.units import Units, split_units, words_of

_RUN = 8
_LEAST_WORDS = 4
"""Pieces of a run that are no numbers."""
_WINDOW = 120


@dataclass(frozen=True)
class RepeatedNgrams:
    """A window of the reply was written before; `strength` is the share of it."""

    name: str = "repeated_ngrams"
    title: str = "repeats what it wrote"
    threshold: float = 0.85
    unit: str = f"of {_WINDOW} words, in runs of {_RUN} that stood before"
    group: Group = "loop"

    def find(self, exchange: Exchange) -> Finding | None:
        if exchange.copies > 1:
            return None  # it does as it was told, or `repeated_suffix` sees that it went on
        return strongest({part: self._find(part, text) for part, text in exchange.texts()})

    def _find(self, part: Part, text: str) -> Finding | None:
        units = words_of(split_units(text))
        if len(units) < _WINDOW:
            return None
        covered = _seen_before(units)
        sums = np.convolve(covered, np.ones(_WINDOW), "valid")
        strength = float(sums.max() / _WINDOW)
        if strength == 0:
            return None
        first = int(np.argmax(sums))
        begins = first + int(np.argmax(covered[first:]))
        said = text[int(units.starts[begins]) :]
        return Finding(
            self.name,
            strength,
            part,
            int(units.starts[begins]),
            f"{strength:.0%} of {_WINDOW} words from {quote(said, 40)} on stood before",
        )


def _seen_before(units: Units) -> NDArray[np.bool_]:
    """[n]: the pieces that lie in a run which occurred earlier."""
    covered = np.zeros(len(units), bool)
    words = np.cumsum([0, *(not piece.isdigit() for piece in units.pieces)])
    known: set[bytes] = set()
    for start in range(len(units) - _RUN + 1):
        end = start + _RUN
        key = units.ids[start:end].tobytes()
        if key in known and words[end] - words[start] >= _LEAST_WORDS:
            covered[start:end] = True
        known.add(key)
    return covered


DETECTORS = (RepeatedNgrams(),)
