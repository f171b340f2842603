"""Data sets of the hub, or folders in their form, read by the optional package `datasets`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from secateur.corpus.json_lines import Record, read_bytes
from secateur.corpus.mix import Source
from secateur.errors import CorpusError, EngineError

NEEDS_DATASETS = "reading {} needs the package datasets: pip install 'secateur[hub-data]'"

_COMMIT = re.compile(r"[0-9a-f]{40}")


class DataSet(NamedTuple):
    """The rows of one split, memory-mapped, and where they come from (JSON-able)."""

    records: Sequence[Record]
    origin: dict[str, Any]


def load_data_set(source: Source) -> DataSet:
    """Load the split that a source names. Never runs code of a data set.

    `HF_HUB_OFFLINE=1` is honoured: then only what lies in the cache is used. Raises CorpusError
    when the data set, its config, split or columns are not there, and EngineError when the hub
    cannot be reached.
    """
    try:
        datasets = import_module("datasets")  # untyped, and optional
    except ImportError as error:
        raise CorpusError(
            f"source {source.name!r}: {NEEDS_DATASETS.format(source.location)}"
        ) from error
    if source.hub is not None and Path(source.hub).exists():
        # datasets would read that folder and never ask the hub
        raise CorpusError(
            f"source {source.name!r}: {source.hub} is also a folder here; name it under `path`, "
            "or start in another folder"
        )
    try:
        data = datasets.load_dataset(
            source.hub or str(source.path),
            source.config,
            split=source.split,
            revision=source.revision,
        )
    except Exception as error:  # whatever its readers of archives and tables raise
        message = f"source {source.name!r}: cannot load {source.location}: {_shorten(error)}"
        if isinstance(error, ConnectionError):
            raise EngineError(f"{message}; connect, or put the data set in the cache") from error
        raise CorpusError(message) from error
    wanted = [column for column in data.column_names if column in source.columns]
    if not wanted:
        raise CorpusError(
            f"source {source.name!r}: {source.location} has none of the columns "
            f"{', '.join(source.columns)}, only {', '.join(data.column_names)}"
        )
    origin = {"config": source.config, "split": source.split}
    if source.path is not None:
        return DataSet(
            data.select_columns(wanted),
            {"path": source.location, "sha256": _hash_folder(source.path), **origin},
        )
    files = [str(entry["filename"]) for entry in data.cache_files]
    return DataSet(
        data.select_columns(wanted),
        {
            "hub": source.hub,
            "revision": _find_commit(files) or source.revision,
            **origin,
        },
    )


def is_commit(revision: str | None) -> bool:
    """Whether a revision names one state of a data set for ever (40 hex digits)."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def _find_commit(cache_files: Sequence[str]) -> str | None:
    """datasets caches what it built from the hub in a folder named after the commit."""
    folders = {Path(name).parent.name for name in cache_files}
    found = sorted(folder for folder in folders if _COMMIT.fullmatch(folder))
    return found[0] if len(found) == 1 else None


def _shorten(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__


def _hash_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(read_bytes(path)).digest())
    return digest.hexdigest()
