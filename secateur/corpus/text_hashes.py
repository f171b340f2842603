"""The text of a corpus as hashes: enough to find a question in it again, too little to read it.

Of every document and every turn of a conversation ("passages") one hash of its words, and of all
runs of 13 words the hashes that are lowest, at most `MOST` of them: a uniform sample, whose size
does not grow with the corpus. Words are compared without case, marks and layout, so that the same
text counts as the same whatever tokenizer or template it went through.

13 words: as in GPT-3 (Brown et al. 2020, appendix C). Words are hashed with blake2b, a run of them
as a sum of products with fixed odd factors, modulo 2^64.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.corpus.rows import Corpus

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LENGTH = 13
"""Words of a run."""
MOST = 1 << 21
"""Hashes of runs that are kept: 16 MiB."""

Hashes = NDArray[np.uint64]
_FACTORS = np.random.Generator(np.random.PCG64(13)).integers(1, 1 << 63, LENGTH, np.uint64) * 2 + 1
_ROLE = re.compile(r"\s*(user|model|assistant|system|developer|tool)\s*(?:\n|$)")
"""What a chat template writes before a turn."""


class Turn(NamedTuple):
    """The text between two control tokens, and whose it is: "" where no role is named."""

    role: str
    text: str


@dataclass(frozen=True)
class TextHashes:
    """A corpus as hashes, each array ascending and without repetitions.

    `corpora` are the sha256 of the corpora (rows.Corpus), `documents` and `words` their sizes.
    `runs` are the lowest of `all_runs` different ones.
    """

    corpora: tuple[str, ...]
    documents: int
    words: int
    all_runs: int
    runs: Hashes
    passages: Hashes

    @property
    def highest(self) -> int:
        """Runs with a higher hash were not kept."""
        return int(self.runs[-1]) if len(self.runs) < self.all_runs else (1 << 64) - 1


def split_words(text: str) -> list[str]:
    """The words of a text, without case and marks."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def hash_text(words: Sequence[str]) -> int:
    """The hash of all words of a passage."""
    return int.from_bytes(hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest())


class RunHasher:
    """Hashes runs of words; remembers the hash of every different word."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def hash_runs(self, words: Sequence[str]) -> Hashes:
        """The hash of every run of `LENGTH` words, in their order; none in a shorter text."""
        if len(words) < LENGTH:
            return np.empty(0, np.uint64)
        for word in set(words) - self._known.keys():
            self._known[word] = hash_text((word,))
        numbers = np.fromiter((self._known[word] for word in words), np.uint64, len(words))
        runs: Hashes = np.lib.stride_tricks.sliding_window_view(numbers, LENGTH) @ _FACTORS
        return runs


def hash_corpus(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, *, most: int = MOST
) -> TextHashes:
    """The hashes of everything that is in the rows of a corpus, read back from its tokens.

    Peak memory: twice the hashes that are kept, and one row.
    """
    hasher = RunHasher()
    passages: set[int] = set()
    runs = np.empty(0, np.uint64)
    pending: list[Hashes] = []
    words = dropped = waiting = 0
    for document in _read_documents(corpus, tokenizer):
        turns = [split_words(turn) for turn in document]
        passages |= {hash_text(turn) for turn in turns if turn}
        whole = [word for turn in turns for word in turn]
        passages.add(hash_text(whole))
        words += len(whole)
        pending.append(hasher.hash_runs(whole))
        waiting += len(pending[-1])
        if waiting > most:
            runs, lost = _keep_lowest([runs, *pending], most)
            pending, waiting, dropped = [], 0, dropped + lost
    runs, lost = _keep_lowest([runs, *pending], most)
    return TextHashes(
        (corpus.sha256,),
        len(corpus.samples),
        words,
        len(runs) + dropped + lost,
        runs,
        np.array(sorted(passages), np.uint64),
    )


def join_hashes(parts: Sequence[TextHashes], *, most: int = MOST) -> TextHashes:
    """The hashes of several corpora as one; a corpus that is there twice (as the parts of one that
    was observed in shards have it) counts once."""
    different = list({part.corpora: part for part in parts}.values())
    # What one part has not kept above a height says nothing about it: all are cut there.
    height = min(part.highest for part in different)
    kept = [part.runs[part.runs <= height] for part in different]
    runs, lost = _keep_lowest(kept, most)
    others = sum(part.all_runs - len(runs) for part, runs in zip(different, kept, strict=True))
    return TextHashes(
        tuple(sorted({sha for part in different for sha in part.corpora})),
        sum(part.documents for part in different),
        sum(part.words for part in different),
        len(runs) + lost + others,
        runs,
        np.unique(np.concatenate([part.passages for part in different])),
    )


def _keep_lowest(parts: Sequence[Hashes], most: int) -> tuple[Hashes, int]:
    """(the lowest of all different hashes, how many more there were)"""
    different = np.unique(np.concatenate(parts))
    return different[:most], max(0, len(different) - most)


def control_ids(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """The tokens of a tokenizer that are no text, ascending int64 [n]."""
    special = (number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    return np.array(sorted({*tokenizer.all_special_ids, *special}), np.int64)


def read_turns(
    ids: NDArray[np.int64], tokenizer: PreTrainedTokenizerBase, control: NDArray[np.int64]
) -> list[Turn]:
    """The texts between the control tokens of a document, those that hold more than a role."""
    turns = []
    for piece in np.split(ids, np.flatnonzero(np.isin(ids, control))):
        text = str(tokenizer.decode(piece[~np.isin(piece, control)].tolist()))
        role = _ROLE.match(text)
        said = text if role is None else text[role.end() :]
        if said.strip():
            turns.append(Turn("" if role is None else role[1], said))
    return turns


def _read_documents(corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> Iterator[list[str]]:
    """The texts of every document, without the names of roles."""
    control = control_ids(tokenizer)
    for row in corpus.rows:
        for number in range(int(row.documents.max()) + 1):
            ids = row.input_ids[row.documents == number]
            yield [turn.text for turn in read_turns(ids, tokenizer, control)]


def find_runs(text: Iterable[str], hashes: TextHashes, hasher: RunHasher) -> tuple[int, int]:
    """(runs of a text that are in the corpus, runs that were looked for).

    Looked for are those that would have been kept.
    """
    runs = hasher.hash_runs(list(text))
    looked_for = runs[runs <= np.uint64(hashes.highest)]
    return int(_are_in(looked_for, hashes.runs).sum()), len(looked_for)


def has_passage(words: Sequence[str], hashes: TextHashes) -> bool:
    """Whether words are a passage of the corpus, all of it."""
    return bool(words) and bool(
        _are_in(np.array([hash_text(words)], np.uint64), hashes.passages)[0]
    )


def _are_in(some: Hashes, ascending: Hashes) -> NDArray[np.bool_]:
    """Which of some hashes are among many, without sorting the many each time."""
    if not len(ascending):
        return np.zeros(len(some), np.bool_)
    places = np.searchsorted(ascending, some)
    found: NDArray[np.bool_] = ascending[np.minimum(places, len(ascending) - 1)] == some
    return found
