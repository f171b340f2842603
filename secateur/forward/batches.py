"""Grouping documents into micro-batches: the unit of work, of threads and of shards.

Every document of every row becomes a line of its own, padded on the right to the longest of its
micro-batch: causal attention then cannot reach another document or the padding, in any family and
without a mask. (Masks for packed rows are no alternative: transformers 5.23 makes none for
gpt_oss, whose forward does not pass positions on, and documents attend to each other silently.)

Micro-batches are small, because attention and norms are quickest in the cache; groups of them go
through a layer's experts together (forward.expert_batch), where many tokens are quickest.

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

MAX_MICRO_BATCH_TOKENS = 1024
"""Tokens of a micro-batch at most (unless one document is longer, or the model is narrow)."""
MIN_WORK_ELEMENTS = 1 << 19
"""Numbers of a piece of work for one thread at least: with fewer it is over so soon that the
thread waits as long for Python's lock."""
MIN_MICRO_BATCH_TOKENS = 512
"""Tokens below which splitting further costs more than it gives."""
MICRO_BATCH_OVERHEAD_TOKENS = 128
"""A micro-batch costs as much as the work on so many tokens, in addition to its own tokens."""
MIN_MICRO_BATCHES = 8
"""Micro-batches at least, where there are tokens enough, so that threads share the work evenly."""
MAX_GROUP_TOKENS = 4096
"""Tokens of a group at most (unless one micro-batch has more)."""


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


def group_micro_batches(batches: Sequence[MicroBatch]) -> tuple[Group, ...]:
    """Neighbouring micro-batches in groups of at most MAX_GROUP_TOKENS tokens, with padding."""
    groups: list[list[MicroBatch]] = []
    room = 0
    for batch in batches:
        size = batch.input_ids.numel()
        if not groups or size > room:
            groups.append([])
            room = MAX_GROUP_TOKENS
        groups[-1].append(batch)
        room -= size
    return tuple(map(tuple, groups))


def count_tokens(group: Sequence[MicroBatch]) -> int:
    """The tokens of some micro-batches that count, also those that broke on their way."""
    return sum(int(batch.mask.sum()) for batch in group)


def make_micro_batches(rows: Sequence[TokenRow], hidden: int) -> tuple[MicroBatch, ...]:
    """The documents of all rows in micro-batches for a model of width `hidden`."""
    total = sum(line.stop - line.start for line in _all_lines(rows))
    largest = max(MAX_MICRO_BATCH_TOKENS, MIN_WORK_ELEMENTS // hidden)
    return batch_documents(
        rows, min(largest, max(MIN_MICRO_BATCH_TOKENS, total // MIN_MICRO_BATCHES))
    )


def batch_documents(rows: Sequence[TokenRow], tokens: int) -> tuple[MicroBatch, ...]:
    """All documents of all rows, long ones first, in a canonical order, in micro-batches of at most
    `tokens` tokens, padding included (unless one document is longer)."""

    def needs_mask(line: Line) -> bool:
        return bool((rows[line.row].documents[line.start : line.stop] < 0).any())

    batches: list[MicroBatch] = []
    keyed = [(needs_mask(line), line) for line in _all_lines(rows)]
    for masked in (False, True):
        lines = [line for needs, line in keyed if needs == masked]
        lines.sort(key=lambda line: line.start - line.stop)
        for start, stop in _find_cuts([line.stop - line.start for line in lines], tokens):
            batches.append(_make_batch(len(batches), masked, lines[start:stop], rows))
    return tuple(batches)


def _find_cuts(lengths: Sequence[int], tokens: int) -> list[tuple[int, int]]:
    """Where to cut documents of falling length into micro-batches: the fewest padded tokens, where
    every micro-batch costs MICRO_BATCH_OVERHEAD_TOKENS more."""
    least = [0, *(sys.maxsize for _ in lengths)]
    begins = [0] * len(least)
    for stop in range(1, len(least)):
        for start in range(stop - 1, -1, -1):
            padded = lengths[start] * (stop - start)
            if padded > tokens and stop - start > 1:
                break
            cost = least[start] + padded + MICRO_BATCH_OVERHEAD_TOKENS
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
