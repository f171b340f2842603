"""Which rows of a checkpoint's matrix the rows of a GGUF tensor are, in which order.

Two things differ. Where a checkpoint has two projections in one matrix, one after the other,
and llama.cpp wants two tensors, each of them is a half of the rows. And llama.cpp turns
neighbouring rows of a head against each other (rotary positions) where transformers turns the
first half of a head's rows against the second: for architectures of that kind the two halves of
a head are written alternately. Rows are encoded one by one, so that no number changes.

Source: llama.cpp's conversion/llama.py, `permute`: (heads, 2, size / 2) becomes
(heads, size / 2, 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RowView:
    """The `part`th of `parts` equal runs of a matrix's rows; in each run of `head` rows of it the
    second half goes between the rows of the first. `head` is None where they keep their order."""

    part: int = 0
    parts: int = 1
    head: int | None = None

    def order(self, start: int, stop: int) -> NDArray[np.intp] | None:
        """For rows `start:stop` of the part as written, their numbers in it as the checkpoint has
        them; None where that is `start:stop` itself."""
        if self.head is None:
            return None
        rows = np.arange(start, stop)
        first, at = rows - rows % self.head, rows % self.head
        return first + at % 2 * (self.head // 2) + at // 2

    def undone(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """A tensor of a GGUF, with the rows of its matrix [R, C] in the checkpoint's order."""
        order = self.order(0, len(array))
        if order is None:
            return array
        restored = np.empty_like(array)
        restored[order] = array
        return restored


WHOLE = RowView()
"""All rows, in their order."""
