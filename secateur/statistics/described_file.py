"""The safetensors files of ours that hold a JSON document in their metadata, with its hash.

The document holds the hashes of the arrays, so that what is read of a file is what was written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from secateur.errors import StatisticsError
from secateur.system import strict_json
from secateur.system.text_files import need_file


class FileKind(NamedTuple):
    """Where the document of a kind of file is, what another file is said to be, and the option
    that makes one."""

    other: str
    """As in "is no token sample"."""
    metadata: str
    version: int
    option: str


def describe(kind: FileKind, data: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a file with this document: one key, since safetensors orders several by
    chance. Its size does not depend on the value of a hash in the document."""
    document = {"version": kind.version, **data}
    return {kind.metadata: _dump({"document": document, "sha256": _hash(document)})}


def read_document(kind: FileKind, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """The document in a file's metadata. Raises KeyError, ValueError for a damaged one."""
    found = strict_json.loads((metadata or {})[kind.metadata])
    if "version" in found:
        return dict(found)  # of the time before hashes: whoever asks will say so
    document: dict[str, Any] = found["document"]
    if found["sha256"] != _hash(document):
        raise ValueError("its header was changed")
    return document


def _hash(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dump(document).encode()).hexdigest()


def _dump(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, ensure_ascii=False)


def hash_arrays(arrays: Iterable[tuple[str, NDArray[Any]]]) -> str:
    """sha256 of arrays with their names, types and shapes, in this order."""
    digest = hashlib.sha256()
    for name, array in arrays:
        digest.update(f"{name} {array.dtype} {list(array.shape)}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@contextmanager
def open_described(path: Path, kind: FileKind) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The open file and its document, without the version.

    Raises StatisticsError for a file that is missing, damaged, of another version or of another
    kind; what the block finds damaged (ValueError, KeyError, TypeError) is said in the same way.
    """
    try:
        need_file(path)
        with safe_open(path, "np") as file:
            data = read_document(kind, file.metadata())
            if data.pop("version") != kind.version:
                raise StatisticsError(
                    f"{path} was written by another version of secateur: calibrate again"
                )
            yield file, data
    except FileNotFoundError:
        raise StatisticsError(
            f"{path} does not exist: calibrate with {kind.option} to make it"
        ) from None
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError):
        raise StatisticsError(
            f"{path} {kind.other} of secateur, or is damaged: calibrate again with {kind.option}"
        ) from None
