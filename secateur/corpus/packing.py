"""Documents to rows: several short documents in one row, a long one over several.

Each category has one open row. A document that fits goes into it; one that does not closes the
row and opens the next. Rows are not padded, so a row that is not full costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.corpus.rows import Row


class Document(NamedTuple):
    """The tokens [token] int64 of one sample. `sample` is its index into `Corpus.samples`."""

    sample: int
    category: str
    input_ids: NDArray[np.int64]


def pack(
    documents: Iterable[Document], sequence_length: int, *, together: bool = True
) -> Iterator[Row]:
    """Yield rows of at most `sequence_length` tokens that hold every token exactly once.

    A longer document is split every `sequence_length` tokens. Each piece starts at position 0
    and does not see the pieces before it; the last, shorter one is packed like any document.
    With `together=False` each document or piece is a row of its own.
    Peak memory: one open row per category.
    """
    waiting: dict[str, list[Document]] = {}
    for document in documents:
        for piece in _split(document, sequence_length):
            row = waiting.setdefault(piece.category, [])
            held = sum(len(member.input_ids) for member in row)
            if row and (not together or held + len(piece.input_ids) > sequence_length):
                yield _join(row)
                row.clear()
            row.append(piece)
    for category in sorted(waiting):
        yield _join(waiting[category])


def _split(document: Document, length: int) -> Iterator[Document]:
    for start in range(0, len(document.input_ids), length):
        yield document._replace(input_ids=document.input_ids[start : start + length])


def _join(members: list[Document]) -> Row:
    lengths = [len(member.input_ids) for member in members]
    return Row(
        input_ids=np.concatenate([member.input_ids for member in members]),
        documents=np.repeat(np.arange(len(members), dtype=np.int32), lengths),
        positions=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        category=members[0].category,
        samples=tuple(member.sample for member in members),
    )
