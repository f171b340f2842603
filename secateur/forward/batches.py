"""Grouping documents into micro-batches: the unit of work, of threads and of shards.

Every document of every row becomes a line of its own, padded on the right to the longest of its
micro-batch: causal attention then cannot reach another document or the padding, in any family and
without a mask. (Masks for packed rows are no alternative: transformers 5.23 makes none for
gpt_oss, whose forward does not pass positions on, and documents attend to each other silently.)

On a CPU micro-batches are small, because attention and norms are quickest in the cache; groups of
them go through a layer's experts together (forward.expert_batch), where many tokens are quickest.

Both depend on the rows and the kind of machine alone, never on threads, so that every group gives
the same bits wherever it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MIN_WORK_ELEMENTS = 1 << 19
"""Numbers of a piece of work for one CPU thread at least: with fewer it is over so soon that the
thread waits as long for Python's lock."""


@dataclass(frozen=True)
class BatchSize:
    """How documents are divided: what is quickest on a kind of machine.

    A micro-batch has at most `most` tokens, padding included (unless one document is longer), or
    `elements` numbers of hidden states where that is more; and fewer, but not fewer than `least`,
    until there are `fewest` of them, so that threads share the work evenly. Each costs as much as
    the work on `overhead` tokens, in addition to its own tokens. A group has at most `group` tokens
    (unless one micro-batch has more). `fits` is set where a device turned out to have no memory for
    more tokens (unless one document is longer).
    """

    most: int
    least: int
    elements: int
    fewest: int
    overhead: int
    group: int
    fits: int = sys.maxsize

    def largest(self, hidden: int) -> int:
        """Tokens of the largest micro-batch of a model of width `hidden`."""
        return max(self.most, self.elements // hidden)


ON_CPU = BatchSize(
    most=1024, least=512, elements=MIN_WORK_ELEMENTS, fewest=8, overhead=128, group=4096
)
ON_DEVICE = BatchSize(most=16384, least=16384, elements=0, fewest=1, overhead=2048, group=0)
"""Every micro-batch is a group of its own: experts are quickest on as many rows as there is memory
for, and beginning a layer takes the host as long as a GPU needs for some thousand tokens."""


class TokenRow(Protocol):
    """One sequence of documents: what corpora and answers have in common.

    `documents` numbers the documents of the row per token; -1 marks a token that is not
    attended to and does not count. Positions restart at 0 with each document.
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
    """B documents, each a line padded to L tokens."""

    index: int
    lines: tuple[Line, ...]
    input_ids: Tensor
    """int64 [B, L]"""
    mask: Tensor
    """bool [B, L]: the tokens that count; False on padding and on masked tokens"""
    needs_mask: bool
    """True when a line has masked tokens between others, so that attention has to be masked"""

    @property
    def positions(self) -> Tensor:
        """int64 [1, L]: the place of each token in its document."""
        return torch.arange(self.input_ids.shape[1]).unsqueeze(0)


Group = tuple[MicroBatch, ...]
"""Micro-batches that go through the experts together."""


def group_micro_batches(
    batches: Sequence[MicroBatch], size: BatchSize = ON_CPU
) -> tuple[Group, ...]:
    """Neighbouring micro-batches in groups of at most `size.group` tokens, with padding."""
    groups: list[list[MicroBatch]] = []
    room = 0
    for batch in batches:
        tokens = _size(batch)
        if not groups or tokens > room:
            groups.append([])
            room = size.group
        groups[-1].append(batch)
        room -= tokens
    return tuple(map(tuple, groups))


def divide_groups(groups: Sequence[Group], tokens: int) -> tuple[Group, ...]:
    """The groups, with what has more than so many tokens, padding included, in groups of one
    smaller micro-batch each (of one document, where that is longer). All keep their numbers."""
    return tuple(
        piece
        for group in groups
        for piece in ([group] if max(map(_size, group)) <= tokens else _pieces(group, tokens))
    )


def _pieces(group: Group, tokens: int) -> Iterator[Group]:
    for batch in group:
        step = max(1, tokens // batch.input_ids.shape[1])
        for start in range(0, len(batch.lines), step):
            some = slice(start, start + step)
            length = batch.lines[start].stop - batch.lines[start].start  # the longest come first
            yield (
                replace(
                    batch,
                    lines=batch.lines[some],
                    input_ids=batch.input_ids[some, :length],
                    mask=batch.mask[some, :length],
                ),
            )


def _size(batch: MicroBatch) -> int:
    return batch.input_ids.numel()


def count_tokens(group: Sequence[MicroBatch]) -> int:
    """The tokens of some micro-batches that count, also those that broke on their way."""
    return sum(int(batch.mask.sum()) for batch in group)


def make_micro_batches(
    rows: Sequence[TokenRow], hidden: int, size: BatchSize = ON_CPU
) -> tuple[MicroBatch, ...]:
    """The documents of all rows in micro-batches for a model of width `hidden`."""
    total = sum(line.stop - line.start for line in _all_lines(rows))
    tokens = min(size.largest(hidden), max(size.least, total // size.fewest), size.fits)
    return batch_documents(rows, tokens, size.overhead)


def batch_documents(
    rows: Sequence[TokenRow], tokens: int, overhead: int = ON_CPU.overhead
) -> tuple[MicroBatch, ...]:
    """All documents of all rows, long ones first, in a canonical order, in micro-batches of at most
    `tokens` tokens, padding included (unless one document is longer); `overhead` as in
    BatchSize."""

    def needs_mask(line: Line) -> bool:
        return bool((rows[line.row].documents[line.start : line.stop] < 0).any())

    batches: list[MicroBatch] = []
    keyed = [(needs_mask(line), line) for line in _all_lines(rows)]
    for masked in (False, True):
        lines = [line for needs, line in keyed if needs == masked]
        lines.sort(key=lambda line: line.start - line.stop)
        lengths = [line.stop - line.start for line in lines]
        for start, stop in _find_cuts(lengths, tokens, overhead):
            batches.append(_make_batch(len(batches), masked, lines[start:stop], rows))
    return tuple(batches)


def arrange(
    rows: Sequence[TokenRow], groups: Sequence[Sequence[Sequence[int]]]
) -> tuple[Group, ...]:
    """Rows of one document each in groups of micro-batches that were decided elsewhere, each given
    by the numbers of its rows."""
    made: list[Group] = []
    index = 0
    for group in groups:
        batches = []
        for numbers in group:
            lines = [line for number in numbers for line in _find_lines(number, rows[number])]
            batches.append(_make_batch(index, False, lines, rows))
            index += 1
        made.append(tuple(batches))
    return tuple(made)


def _find_cuts(lengths: Sequence[int], tokens: int, overhead: int) -> list[tuple[int, int]]:
    """Where to cut documents of falling length into micro-batches: the fewest padded tokens, where
    every micro-batch costs `overhead` more."""
    least = [0, *(sys.maxsize for _ in lengths)]
    begins = [0] * len(least)
    for stop in range(1, len(least)):
        for start in range(stop - 1, -1, -1):
            padded = lengths[start] * (stop - start)
            if padded > tokens and stop - start > 1:
                break
            cost = least[start] + padded + overhead
            if cost < least[stop]:
                least[stop], begins[stop] = cost, start
    cuts = []
    stop = len(lengths)
    while stop:
        cuts.append((begins[stop], stop))
        stop = begins[stop]
    return cuts[::-1]


def _all_lines(rows: Sequence[TokenRow]) -> list[Line]:
    return [line for number, row in enumerate(rows) for line in _find_lines(number, row)]


def _find_lines(number: int, row: TokenRow) -> Iterator[Line]:
    for document in range(int(row.documents.max(initial=-1)) + 1):
        tokens = np.flatnonzero(row.documents == document)
        if tokens.size:
            yield Line(number, document, int(tokens[0]), int(tokens[-1]) + 1)


def _make_batch(
    index: int, needs_mask: bool, lines: Sequence[Line], rows: Sequence[TokenRow]
) -> MicroBatch:
    shape = (len(lines), lines[0].stop - lines[0].start)
    ids = np.zeros(shape, np.int64)
    mask = np.zeros(shape, np.bool_)
    for number, line in enumerate(lines):
        size = line.stop - line.start
        ids[number, :size] = rows[line.row].input_ids[line.start : line.stop]
        mask[number, :size] = rows[line.row].documents[line.start : line.stop] == line.document
    tensors = torch.from_numpy(ids), torch.from_numpy(mask)
    return MicroBatch(index, tuple(lines), *tensors, needs_mask)
