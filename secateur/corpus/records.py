"""Where calibration text lies: JSONL and text files here, data sets in `hub_data`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from secateur.corpus.hub_data import load_data_set
from secateur.corpus.json_lines import Record, read_bytes, read_json_lines
from secateur.corpus.mix import Source
from secateur.errors import CorpusError

_NO_TEXT = (".json", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zst", ".zip")
"""Endings of files that hold records or are packed: read as text, a model would see their marks."""


class Records(NamedTuple):
    """The records of one source, read at need, and where each stands (for messages).

    `origin` is JSON-able and goes into the corpus description: path or data set, hash or
    revision, number of records.
    """

    records: Sequence[Record]
    place: Callable[[int], str]
    origin: Mapping[str, Any]


def open_records(source: Source) -> Records:
    """The records of a source.

    Raises CorpusError when it is missing, unreadable or empty, and EngineError when the hub
    cannot be reached.
    """
    if source.path is None or source.path.is_dir():
        found = _open_data_set(source)
    elif source.path.suffix == ".jsonl":
        lines = read_json_lines(source.path)
        found = Records(
            lines.records,
            lambda index: f"{source.path}:{lines.lines[index]}",
            {"path": source.location, "sha256": lines.sha256},
        )
    elif source.path.suffix.lower() in _NO_TEXT:
        raise CorpusError(
            f"source {source.name!r}: {source.location} is no plain text: give a .jsonl file (one "
            "JSON object a line), a text file, or a folder that `datasets` reads"
        )
    else:
        found = _open_text(source, source.path)
    if not len(found.records):
        raise CorpusError(f"source {source.name!r}: {source.location} holds no records")
    return found._replace(origin={**found.origin, "records": len(found.records)})


def _open_data_set(source: Source) -> Records:
    data = load_data_set(source)
    return Records(data.records, lambda index: f"{source.location}[{index}]", data.origin)


def _open_text(source: Source, path: Path) -> Records:
    content = read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise CorpusError(f"{path}:{line}: not UTF-8; expected a text or .jsonl file") from error
    text = text.replace("\r\n", "\n")
    parts = [text] if source.separator is None else text.split(source.separator)
    records: list[Record] = []
    lines: list[int] = []
    line = 1
    for part in parts:
        if part.strip():
            records.append({"text": part})
            lines.append(line)
        line += (part + (source.separator or "")).count("\n")
    return Records(
        tuple(records),
        lambda index: f"{path}:{lines[index]}",
        {"path": source.location, "sha256": hashlib.sha256(content).hexdigest()},
    )
