"""Grouping rows into micro-batches: the unit of work, of threads and of shards.

The grouping depends on the rows alone, never on threads or shards, so that every micro-batch
gives the same bits wherever it runs. A shorter row is filled up with tokens of a document of
their own, which nothing attends to and nobody counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LARGEST = 4096
"""Tokens of a micro-batch at most (unless one row is longer)."""
SMALLEST = 512
"""Tokens below which splitting further costs more than it gives."""
WANTED = 8
"""Micro-batches wanted at least, so that a few threads share the work evenly."""


class TokenRow(Protocol):
    """One sequence: what calibration.corpus.Row and evaluation's answers both are.

    `documents` numbers the documents of the row per token; -1 marks a token that is not
    attended to and does not count. `positions` restart at 0 with each document.
    """

    @property
    def input_ids(self) -> Sequence[int] | NDArray[np.int64]: ...
    @property
    def documents(self) -> NDArray[np.int32]: ...
    @property
    def positions(self) -> NDArray[np.int32]: ...


@dataclass(frozen=True)
class MicroBatch:
    """B rows of at most L tokens, side by side."""

    index: int
    rows: tuple[int, ...]
    """Numbers of the rows in the corpus."""
    input_ids: Tensor
    """int64 [B, L]"""
    positions: Tensor
    """int64 [B, L]"""
    documents: Tensor
    """int64 [B, L]; -1 where a token does not count"""
    mask: Tensor | None
    """bool [B, L] when a row has masked tokens between others, else None"""

    @property
    def counted(self) -> Tensor:
        """bool [B * L]: the tokens that count."""
        return (self.documents >= 0).reshape(-1)


def micro_batches(rows: Sequence[TokenRow]) -> tuple[MicroBatch, ...]:
    """All rows in micro-batches, longest rows together, in a canonical order."""
    total = sum(len(row.input_ids) for row in rows)
    limit = min(LARGEST, max(SMALLEST, total // WANTED))
    order = sorted(range(len(rows)), key=lambda i: (_has_holes(rows[i]), -len(rows[i].input_ids)))
    groups: list[list[int]] = []
    for number in order:
        row = rows[number]
        if groups:
            head = rows[groups[-1][0]]
            fits = (len(groups[-1]) + 1) * len(head.input_ids) <= limit
            if fits and _has_holes(head) == _has_holes(row):
                groups[-1].append(number)
                continue
        groups.append([number])
    return tuple(_batch(index, group, rows) for index, group in enumerate(groups))


def _has_holes(row: TokenRow) -> bool:
    """True when a token that does not count stands before one that does."""
    counted = np.flatnonzero(row.documents >= 0)
    return bool(counted.size) and int(counted[-1]) + 1 != counted.size


def _batch(index: int, group: Sequence[int], rows: Sequence[TokenRow]) -> MicroBatch:
    length = max(len(rows[number].input_ids) for number in group)
    shape = (len(group), length)
    ids = np.zeros(shape, np.int64)
    documents = np.full(shape, -1, np.int64)
    positions = np.tile(np.arange(length, dtype=np.int64), (len(group), 1))
    holes = False
    for line, number in enumerate(group):
        row = rows[number]
        size = len(row.input_ids)
        ids[line, :size] = row.input_ids
        documents[line, :size] = row.documents
        positions[line, :size] = row.positions
        # Restarting at 0 makes the filling a document of its own for the packed-sequence mask.
        positions[line, size:] = np.arange(length - size)
        holes |= _has_holes(row)
    return MicroBatch(
        index,
        tuple(group),
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        torch.from_numpy(documents),
        torch.from_numpy(documents >= 0) if holes else None,
    )
