"""Rows of tokens made elsewhere, used exactly as given: JSONL, one row a line.

    {"input_ids": [2, 105, 2364, 107], "category": "chat"}

Each row is one document of its own: it is never split, packed, shuffled or left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.corpus.held_out import HoldOut, hold_out
from secateur.corpus.json_lines import read_json_lines
from secateur.corpus.rows import PADDING, Chosen, Corpus, Row, Sample, make_corpus
from secateur.errors import CorpusError
from secateur.system.sizes import show_count

ROW_KEYS = {
    "input_ids": "list of token ids of the model's tokenizer; required",
    "attention_mask": "list of 0 and 1, as long: tokens with 0 are padding",
    "category": "the category that the row counts for; `rows` by default",
}
"""The keys of a row, and what each holds."""

_CATEGORY = "rows"


def load_rows(path: Path | str, vocab_size: int, held_out: HoldOut | None = None) -> Corpus:
    """Read one row a line: `input_ids`, optionally `attention_mask` and `category`.

    Each row is one document, never split, packed, shuffled or deduplicated; tokens with mask 0
    are padding. `held_out`: the share of the rows that is kept out, to measure on. Raises
    CorpusError with file and line number for anything else.
    """
    path = Path(path)
    lines = read_json_lines(path)
    rows: list[Row] = []
    samples: list[Sample] = []
    for number, record in zip(lines.lines, lines.records, strict=True):
        row = _parse_row(record, len(samples), vocab_size, f"{path}:{number}")
        content = json.dumps(row.input_ids.tolist(), separators=(",", ":"))
        sha256 = hashlib.sha256(content.encode()).hexdigest()
        tokens = int(np.count_nonzero(row.documents != PADDING))
        rows.append(row)
        samples.append(Sample(path.name, row.category, sha256, tokens))
    if not rows:
        raise CorpusError(f"{path} holds no rows; give one JSON object with input_ids a line")
    description = {
        "rows_file": path.name,
        "rows_file_sha256": lines.sha256,
        "sequence_length": max(len(row.input_ids) for row in rows),
        "packed": False,
        "warnings": [],
    }
    if held_out is None:
        return make_corpus(rows, samples, description)
    return _split(make_corpus(rows, samples, description), held_out)


def _split(corpus: Corpus, wanted: HoldOut) -> Corpus:
    """The same without the rows that are held out."""
    documents = [
        Chosen(sample, row.input_ids[row.documents != PADDING])
        for sample, row in zip(corpus.samples, corpus.rows, strict=True)
    ]
    kept, held_out, facts = hold_out(documents, wanted)
    # Rows of the same tokens lie on the same side.
    hashes = {document.sample.sha256 for document in kept}
    rows = [
        row
        for row, sample in zip(corpus.rows, corpus.samples, strict=True)
        if sample.sha256 in hashes
    ]
    return make_corpus(
        [row._replace(samples=(number,)) for number, row in enumerate(rows)],
        [document.sample for document in kept],
        {**corpus.description, "held_out": facts},
        held_out,
    )


def _parse_row(record: Mapping[str, Any], sample: int, vocab_size: int, where: str) -> Row:
    unknown = sorted(set(record) - set(ROW_KEYS))
    if unknown:
        raise CorpusError(
            f"{where}: unknown key {unknown[0]!r:.40}; a row has {', '.join(ROW_KEYS)}"
        )
    if "input_ids" not in record:
        raise CorpusError(f"{where}: no input_ids; a row is a list of token ids under that key")
    category = record.get("category", _CATEGORY)
    if not isinstance(category, str) or not category:
        raise CorpusError(f"{where}: category is {category!r:.40}, expected a name")
    ids = _parse_integers(record["input_ids"], "input_ids", where)
    for index, token in enumerate(ids):
        if not 0 <= token < vocab_size:
            raise CorpusError(
                f"{where}: input_ids[{index}] is {token}, but the model's vocabulary is "
                f"0 to {vocab_size - 1}; the rows were made with another tokenizer"
            )
    mask = _parse_mask(record.get("attention_mask"), len(ids), where)
    real = np.flatnonzero(mask)
    positions = np.arange(len(ids), dtype=np.int32) - np.int32(real[0])
    # Padding at the ends stands at position 0, which makes each of its tokens a sequence of its
    # own; padding inside keeps its place, because the tokens around it see each other.
    positions[: real[0]] = 0
    positions[real[-1] + 1 :] = 0
    return Row(
        input_ids=np.array(ids, np.int64),
        documents=np.where(mask, 0, PADDING).astype(np.int32),
        positions=positions,
        category=category,
        samples=(sample,),
    )


def _parse_mask(value: object, length: int, where: str) -> NDArray[np.bool_]:
    if value is None:
        return np.ones(length, np.bool_)
    mask = _parse_integers(value, "attention_mask", where)
    if len(mask) != length:
        raise CorpusError(
            f"{where}: attention_mask has {show_count(len(mask), 'entry', 'entries')}, but "
            f"input_ids has {length}"
        )
    for index, entry in enumerate(mask):
        if entry not in (0, 1):
            raise CorpusError(f"{where}: attention_mask[{index}] is {entry}, expected 0 or 1")
    if not any(mask):
        raise CorpusError(f"{where}: attention_mask is 0 everywhere, the row has no token")
    return np.array(mask, np.bool_)


def _parse_integers(value: object, key: str, where: str) -> list[int]:
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else type(value).__name__
        raise CorpusError(f"{where}: {key} is {found}, expected a list of integers")
    for index, entry in enumerate(value):
        if type(entry) is not int:
            raise CorpusError(f"{where}: {key}[{index}] is {entry!r:.40}, expected an integer")
    return value
