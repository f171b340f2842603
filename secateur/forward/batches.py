"""Grouping documents into micro-batches: the unit of work, of threads and of shards.

Every document of every row becomes a line of its own, filled up on the right to the longest of
its group: causal attention then cannot reach another document or the filling, in any family and
without a mask. (Masks for packed rows are no alternative: transformers 5.23 makes none for
gpt_oss, whose forward does not pass positions on, and documents attend to each other silently.)

Micro-batches are small, because attention and norms are quickest in the cache; groups of them go
through a layer's experts together (forward.meeting), where many tokens are quickest.

Both depend on the rows alone, never on threads, so that every group gives the same bits wherever
it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LARGEST = 1024
"""Tokens of a micro-batch at most (unless one document is longer, or the model is narrow)."""
NARROW = 1 << 19
"""Numbers that the hidden states of a micro-batch may have where that is more tokens: the work on
fewer is over so soon that a thread waits for Python's lock as long."""
SMALLEST = 512
"""Tokens below which splitting further costs more than it gives."""
CALL = 128
"""Tokens whose work takes as long as what a micro-batch costs besides."""
WANTED = 8
"""Micro-batches wanted at least, so that a few threads share the work evenly."""
JOINED = 4096
"""Tokens of a group at most (unless one micro-batch has more)."""


class TokenRow(Protocol):
    """One sequence of documents: what corpora and answers have in common.

    `documents` numbers the documents of the row per token; -1 marks a token that is not
    attended to and does not count. `positions` restart at 0 with each document.
    """

    @property
    def input_ids(self) -> Sequence[int] | NDArray[np.int64]: ...
    @property
    def documents(self) -> NDArray[np.int32]: ...


class Line(NamedTuple):
    """Where a line of a micro-batch comes from: tokens `start:stop` of a document of a row."""

    row: int
    document: int
    start: int
    stop: int


@dataclass(frozen=True)
class MicroBatch:
    """B documents side by side, filled up to L tokens."""

    index: int
    lines: tuple[Line, ...]
    input_ids: Tensor
    """int64 [B, L]"""
    counted: Tensor
    """bool [B, L]: the tokens that count; False on filling and on masked tokens"""
    holes: bool
    """True when a line has masked tokens between others, so that it needs a mask"""

    @property
    def positions(self) -> Tensor:
        """int64 [B, L]: the place of each token in its document."""
        return torch.arange(self.input_ids.shape[1]).expand(self.input_ids.shape)


Group = tuple[MicroBatch, ...]
"""Micro-batches that go through the experts together."""


def groups(batches: Sequence[MicroBatch]) -> tuple[Group, ...]:
    """Neighbouring micro-batches in groups of at most JOINED tokens, filling included."""
    found: list[list[MicroBatch]] = []
    room = 0
    for batch in batches:
        size = batch.input_ids.numel()
        if not found or size > room:
            found.append([])
            room = JOINED
        found[-1].append(batch)
        room -= size
    return tuple(map(tuple, found))


def micro_batches(rows: Sequence[TokenRow], hidden: int) -> tuple[MicroBatch, ...]:
    """The documents of all rows in micro-batches for a model of width `hidden`."""
    total = sum(line.stop - line.start for line in _all_lines(rows))
    largest = max(LARGEST, NARROW // hidden)
    return side_by_side(rows, min(largest, max(SMALLEST, total // WANTED)))


def side_by_side(rows: Sequence[TokenRow], tokens: int) -> tuple[MicroBatch, ...]:
    """All documents of all rows, long ones first, in a canonical order, in micro-batches of at most
    `tokens` tokens, filling included (unless one document is longer)."""

    def has_holes(line: Line) -> bool:
        return bool((rows[line.row].documents[line.start : line.stop] < 0).any())

    found: list[MicroBatch] = []
    keyed = [(has_holes(line), line) for line in _all_lines(rows)]
    for holes in (False, True):
        lines = [line for with_holes, line in keyed if with_holes == holes]
        lines.sort(key=lambda line: line.start - line.stop)
        for start, stop in _cuts([line.stop - line.start for line in lines], tokens):
            found.append(_batch(len(found), holes, lines[start:stop], rows))
    return tuple(found)


def _cuts(lengths: Sequence[int], tokens: int) -> list[tuple[int, int]]:
    """Where to cut documents of falling length into micro-batches: the fewest tokens with their
    filling, where every micro-batch costs CALL more."""
    least = [0, *(sys.maxsize for _ in lengths)]
    begins = [0] * len(least)
    for stop in range(1, len(least)):
        for start in range(stop - 1, -1, -1):
            filled = lengths[start] * (stop - start)
            if filled > tokens and stop - start > 1:
                break
            if least[start] + filled + CALL < least[stop]:
                least[stop], begins[stop] = least[start] + filled + CALL, start
    found = []
    stop = len(lengths)
    while stop:
        found.append((begins[stop], stop))
        stop = begins[stop]
    return found[::-1]


def _all_lines(rows: Sequence[TokenRow]) -> list[Line]:
    return [line for number, row in enumerate(rows) for line in _lines(number, row)]


def _lines(number: int, row: TokenRow) -> Iterator[Line]:
    for document in range(int(row.documents.max(initial=-1)) + 1):
        tokens = np.flatnonzero(row.documents == document)
        if tokens.size:
            yield Line(number, document, int(tokens[0]), int(tokens[-1]) + 1)


def _batch(index: int, holes: bool, lines: Sequence[Line], rows: Sequence[TokenRow]) -> MicroBatch:
    shape = (len(lines), lines[0].stop - lines[0].start)
    ids = np.zeros(shape, np.int64)
    counted = np.zeros(shape, np.bool_)
    for number, line in enumerate(lines):
        size = line.stop - line.start
        ids[number, :size] = rows[line.row].input_ids[line.start : line.stop]
        counted[number, :size] = rows[line.row].documents[line.start : line.stop] == line.document
    return MicroBatch(index, tuple(lines), torch.from_numpy(ids), torch.from_numpy(counted), holes)
