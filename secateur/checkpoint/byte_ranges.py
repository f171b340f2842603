"""An output tensor as byte ranges of the shards it is copied from.

Selecting experts moves bytes and computes nothing, so a pruned tensor is fully described by
where its bytes lie. What is described this way can be sized, laid out and reviewed before
anything is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from secateur.checkpoint.headers import TensorSpec
from secateur.checkpoint.tensors import STORAGE

Allowed = Literal["finite", "infinite", "any"]
"""Which numbers a tensor may hold: finite ones; infinities too; anything, NaN included."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of bytes in a file: `nbytes` of them from the absolute `offset` on."""

    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class SlicedTensor:
    """A tensor to write: its bytes are those of its pieces, one after the other (C order)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    allowed: Allowed = "finite"

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of data, which the pieces add up to."""
        return self.elements * STORAGE[self.dtype].itemsize


def whole(spec: TensorSpec, allowed: Allowed = "finite") -> SlicedTensor:
    """A tensor copied as it is."""
    piece = Piece(spec.path, spec.offset, spec.nbytes)
    return SlicedTensor(spec.name, spec.dtype, spec.shape, joined([piece]), allowed)


def joined(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """The same bytes in as few pieces as possible: neighbours merged, empty ones left out."""
    merged: list[Piece] = []
    for piece in pieces:
        if not piece.nbytes:
            continue
        last = merged[-1] if merged else None
        if last and last.offset + last.nbytes == piece.offset and last.path == piece.path:
            merged[-1] = Piece(last.path, last.offset, last.nbytes + piece.nbytes)
        else:
            merged.append(piece)
    return tuple(merged)
