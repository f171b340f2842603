"""What the model runs to be observed: rows of tokens, and where each token came from.

A row is one sequence. Several documents may lie in it one after the other, and none may see
another. What keeps them apart in every family, with every attention implementation, is to run
each document as a line of its own, padded on the right, with neither a mask nor a cache
(`forward.batches` does that); padding inside a document (`--rows` only) needs a mask.

To run a row whole, with `model(input_ids=..., position_ids=row.positions, attention_mask=None,
use_cache=False)`, is exact only where the family hands positions to its masks. Most do; in
transformers 5.23 gpt_oss and afmoe do not, recurrent layers carry state from one document to the
next, and a mask of ones or `use_cache=True` switches the separation off, all without a word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.corpus.fields import Content

PADDING = -1


class Row(NamedTuple):
    """One sequence, with documents of one category only, so that sums per category are exact.

    `input_ids` [token] int64. `documents` [token] int32: index of the token's document in this
    row, or -1 for padding, which is neither attended to nor counted. `positions` [token] int32
    restart at 0 with each document. `samples`: for each document of the row, its index into
    `Corpus.samples`; the pieces of a document that was split name the same sample.
    """

    input_ids: NDArray[np.int64]
    documents: NDArray[np.int32]
    positions: NDArray[np.int32]
    category: str
    samples: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One document as it was read. `tokens` counts those that are in the rows.

    `sha256` is over the canonical JSON of the whole text or messages, before any cut.
    """

    source: str
    category: str
    sha256: str
    tokens: int


class Chosen(NamedTuple):
    """A document of a corpus and its tokens [token] int64.

    Where documents are held out, `content` is what was read, to be rendered again with `template`
    (arguments of the chat template) and `thought` (the format of thoughts); None for rows of
    tokens. `part_of` is the sha256 of the document that this one is a piece of.
    """

    sample: Sample
    input_ids: NDArray[np.int64]
    content: Content | None = None
    template: Mapping[str, Any] = MappingProxyType({})
    thought: str | None = None
    part_of: str | None = None


@dataclass(frozen=True, slots=True)
class Corpus:
    """All rows of a calibration run. `sha256` is over the rows, in order.

    `description` can be written as JSON: seed, sequence length, sources with their revision or
    hash, tokenizer hash, counts, and `warnings`, a list of sentences to show to the user.
    `held_out` documents are in none of the rows: they are there to measure on.
    """

    rows: tuple[Row, ...]
    samples: tuple[Sample, ...]
    categories: tuple[str, ...]
    description: Mapping[str, Any]
    sha256: str
    held_out: tuple[Chosen, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens that count, over all rows; padding does not."""
        return sum(int(np.count_nonzero(row.documents != PADDING)) for row in self.rows)


def make_corpus(
    rows: Iterable[Row],
    samples: Iterable[Sample],
    description: Mapping[str, Any],
    held_out: tuple[Chosen, ...] = (),
) -> Corpus:
    """A corpus with its hash, its sorted categories and the token counts in its description."""
    all_rows = tuple(rows)
    counts: dict[str, int] = {}
    for row in all_rows:
        real = int(np.count_nonzero(row.documents != PADDING))
        counts[row.category] = counts.get(row.category, 0) + real
    categories = tuple(sorted(counts))
    counted = {
        **description,
        "rows": len(all_rows),
        "tokens": sum(counts.values()),
        "tokens_by_category": {category: counts[category] for category in categories},
    }
    digest = _hash_rows(all_rows)
    return Corpus(all_rows, tuple(samples), categories, counted, digest, held_out)


def _hash_rows(rows: tuple[Row, ...]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        category = row.category.encode()
        digest.update(
            np.array([len(row.input_ids), len(row.samples), len(category)], "<i8").tobytes()
        )
        digest.update(category)
        digest.update(np.asarray(row.samples, "<i8").tobytes())
        digest.update(row.input_ids.astype("<i8").tobytes())
        digest.update(row.documents.astype("<i4").tobytes())
        digest.update(row.positions.astype("<i4").tobytes())
    return digest.hexdigest()
