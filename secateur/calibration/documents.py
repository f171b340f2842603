"""Which documents of a corpus a calibration runs, as statistics list them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.calibration.observers.base import Owners
from secateur.corpus.rows import Corpus
from secateur.forward.batches import Group, MicroBatch


@dataclass(frozen=True)
class Documents:
    """The documents behind some micro-batches of a corpus, and whose their tokens are.

    `samples` are those of `Statistics`, sorted by content and category; `tokens` count per
    category what is not masked.
    """

    corpus: Corpus
    samples: tuple[Mapping[str, Any], ...]
    tokens: Mapping[str, int]
    _places: NDArray[np.int64]
    """[samples of the corpus]: each one's place in `samples`; equal content shares a place"""

    def owners(self, group: Group) -> Owners:
        """Category and sample of every token of a group, padding included; int64 [T]."""
        lengths = [batch.input_ids.shape[1] for batch in group for _ in batch.lines]
        numbers = {name: number for number, name in enumerate(self.corpus.categories)}
        categories = [
            numbers[self.corpus.rows[line.row].category] for batch in group for line in batch.lines
        ]
        samples = self._places[self._samples(group)]
        return Owners(np.repeat(categories, lengths), np.repeat(samples, lengths))

    def describe(self, group: Group, token: int) -> str:
        """The document of a token of a group, for an error."""
        lengths = [batch.input_ids.shape[1] for batch in group for _ in batch.lines]
        sample = self.corpus.samples[int(np.repeat(self._samples(group), lengths)[token])]
        return f"{sample.sha256[:12]} ({sample.source})"

    def _samples(self, group: Group) -> NDArray[np.int64]:
        """int64 [lines]: the corpus' sample of every line of a group."""
        rows = self.corpus.rows
        return np.array(
            [rows[line.row].samples[line.document] for batch in group for line in batch.lines],
            np.int64,
        )


def list_documents(corpus: Corpus, batches: Sequence[MicroBatch]) -> Documents:
    """The documents of which some token is in the micro-batches."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    tokens = dict.fromkeys(corpus.categories, 0)
    for batch in batches:
        counts = batch.mask.sum(-1).tolist()
        for line, count in zip(batch.lines, counts, strict=True):
            row = corpus.rows[line.row]
            sample = corpus.samples[row.samples[line.document]]
            named = {"source": sample.source, "category": sample.category, "sha256": sample.sha256}
            entry = found.setdefault((sample.sha256, sample.category), {**named, "tokens": 0})
            entry["tokens"] += count
            entry["source"] = min(entry["source"], sample.source)
            tokens[row.category] += count
    places = {key: place for place, key in enumerate(sorted(found))}
    owner = [places.get((one.sha256, one.category), -1) for one in corpus.samples]
    return Documents(
        corpus, tuple(found[key] for key in sorted(found)), tokens, np.array(owner, np.int64)
    )
