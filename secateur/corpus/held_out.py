"""A share of a corpus that is kept out of the calibration, to measure on.

Whole documents are held out, and which ones their content alone decides: of each category those
with the lowest hashes of their words, so that documents that differ in case, spaces and marks
only lie on one side, and a corpus that grew still holds out most of what it did before. Near
copies of a held-out document (near_copies) are left out of the calibration as well.

A category that is one long text, or hardly more, is cut instead: the end of its longest text is
held out, in pieces.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from secateur.corpus.near_copies import find_near_copies
from secateur.corpus.rows import Chosen
from secateur.errors import CorpusError

SHARE = 0.05
"""Of the documents of each category."""
MOST_TOKENS = 32768
"""Tokens that all held-out documents may count for, so that measuring takes no longer than a
short calibration."""
DOCUMENT_TOKENS = 512
"""Tokens of a document that are measured, at most."""

_LEAST_TOKENS = 256
"""What a document counts for at least: a short question may get a long answer."""
_LARGE = 0.2
"""A document with more of its category's tokens is too much to hold out whole."""


@dataclass(frozen=True, slots=True)
class HoldOut:
    """How much is held out: a `share` of the documents, of at most `tokens` in all."""

    share: float = SHARE
    tokens: int = MOST_TOKENS

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise CorpusError(
                f"held_out is {self.share:g}, expected a share of the documents above 0 and below 1"
            )


class Split(NamedTuple):
    """A corpus' documents on both sides; `facts` (JSON-able) describe what was held out."""

    calibration: list[Chosen]
    held_out: tuple[Chosen, ...]
    facts: dict[str, Any]


def hold_out(documents: Sequence[Chosen], wanted: HoldOut) -> Split:
    """Split documents. The result does not depend on their order.

    Raises CorpusError when nothing can be held out, or nothing is left to calibrate on.
    """
    keys = [_key(document) for document in documents]
    # Of documents with the same words one is measured, whatever their order.
    first: dict[str, int] = {}
    for number in sorted(range(len(keys)), key=lambda number: documents[number].sample.sha256):
        first.setdefault(keys[number], number)
    whole, cut = _choose(documents, [first[key] for key in sorted(first)], wanted)
    chosen = {keys[number] for number in (*whole, *cut)}
    rest = [number for number, key in enumerate(keys) if key not in chosen or number in cut]
    pieces = {number: _cut(documents[number], count) for number, count in cut.items()}
    held = [documents[number] for number in whole]
    held += [piece for _, ends in pieces.values() for piece in ends]
    if not held:
        raise CorpusError(
            "the corpus has too few documents to hold some out for measuring: name prompts or "
            "answers to measure on (--prompts, --answers), a corpus of more documents (`separator` "
            "cuts a text file), or --no-measure"
        )
    copies = find_near_copies(
        [document.input_ids for document in held],
        [documents[number].input_ids for number in rest],
    )
    kept = [
        pieces[number][0] if number in pieces else documents[number]
        for number, copy in zip(rest, copies, strict=True)
        if copy is None or number in pieces
    ]
    if not kept:
        raise CorpusError(
            "all documents of the corpus are near copies of those held out for measuring, so none "
            "is left to calibrate on: name prompts or answers to measure on, or --no-measure"
        )
    held.sort(key=lambda document: (document.sample.category, document.sample.sha256))
    copied = len(documents) - len(kept) - len(whole)
    return Split(kept, tuple(held), _describe(held, wanted, copied))


def _choose(
    documents: Sequence[Chosen], order: Sequence[int], wanted: HoldOut
) -> tuple[set[int], dict[int, int]]:
    """(documents held out whole, {document that is cut: pieces}), in turn from every category.

    `order`: the documents to choose from, those to hold out first at the beginning.
    """
    by_category: dict[str, list[int]] = {}
    for number in order:
        by_category.setdefault(documents[number].sample.category, []).append(number)
    queues: list[list[int]] = []
    cut: dict[int, int] = {}
    for _, numbers in sorted(by_category.items()):
        total = sum(len(documents[number].input_ids) for number in numbers)
        large = len(documents[numbers[0]].input_ids) > _LARGE * total
        longest = max(numbers, key=lambda number: len(documents[number].input_ids))
        if large and (count := _pieces(documents[longest], total, wanted, len(by_category))):
            cut[longest] = count
        else:
            count = math.ceil(round(len(numbers) * wanted.share, 6))
            queues.append(numbers[: min(count, len(numbers) - 1)])
    whole: set[int] = set()
    left = wanted.tokens - DOCUMENT_TOKENS * sum(cut.values())
    for turn in range(max(map(len, queues), default=0)):
        for queue in queues:
            if turn < len(queue) and (turn == 0 or left > 0):
                whole.add(queue[turn])
                length = len(documents[queue[turn]].input_ids)
                left -= min(max(length, _LEAST_TOKENS), DOCUMENT_TOKENS)
    return whole, cut


def _pieces(document: Chosen, total: int, wanted: HoldOut, categories: int) -> int:
    """How many pieces are cut from the end of a text; 0 for one that is not cut."""
    if document.content is None or document.content.text is None:
        return 0
    most = min(len(document.input_ids) // 2, wanted.tokens // categories) // DOCUMENT_TOKENS
    return min(max(1, round(wanted.share * total / DOCUMENT_TOKENS)), most)


def _cut(document: Chosen, count: int) -> tuple[Chosen, list[Chosen]]:
    """A text without its end, and the end in pieces that name the whole text they are of."""
    end = len(document.input_ids) - count * DOCUMENT_TOKENS
    pieces = []
    for start in range(end, len(document.input_ids), DOCUMENT_TOKENS):
        ids = document.input_ids[start : start + DOCUMENT_TOKENS]
        sha256 = hashlib.sha256(f"{document.sample.sha256} {start}".encode()).hexdigest()
        sample = replace(document.sample, sha256=sha256, tokens=len(ids))
        pieces.append(Chosen(sample, ids, part_of=document.sample.sha256))
    kept = document._replace(
        sample=replace(document.sample, tokens=end), input_ids=document.input_ids[:end]
    )
    return kept, pieces


def _key(document: Chosen) -> str:
    """A hash of a document's words: case, spaces and punctuation do not count."""
    if document.content is None:
        return document.sample.sha256
    content = document.content
    said = content.text
    if said is None:
        turns = [content.messages, content.tools, sorted(content.thoughts.items())]
        said = json.dumps(turns, sort_keys=True, ensure_ascii=False)
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", said).casefold())
    return hashlib.sha256(" ".join(words or [document.sample.sha256]).encode()).hexdigest()


def _describe(held: Sequence[Chosen], wanted: HoldOut, copies: int) -> dict[str, Any]:
    samples = [
        {
            "source": document.sample.source,
            "category": document.sample.category,
            "sha256": document.sample.sha256,
            "tokens": len(document.input_ids),
        }
        for document in held
    ]
    canonical = json.dumps(samples, sort_keys=True)
    return {
        "share": wanted.share,
        "most_tokens": wanted.tokens,
        "documents": len(held),
        "tokens": int(np.sum([len(document.input_ids) for document in held])),
        "copies_left_out": copies,
        "sha256": hashlib.sha256(canonical.encode()).hexdigest(),
        "samples": samples,
    }
