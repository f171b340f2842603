"""Writing a GGUF file from a stream of chunks: bounded memory, complete or absent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.errors import FormatError, WriteError
from secateur.formats.gguf import (
    Metadata,
    TensorInfo,
    alignment_of,
    file_bytes,
    header_parts,
    padded,
)


class TensorChunk(NamedTuple):
    """Some encoded bytes of a tensor; a tensor's chunks follow one another in row order."""

    name: str
    data: NDArray[np.uint8]


def write_gguf(
    path: Path, metadata: Metadata, infos: Sequence[TensorInfo], chunks: Iterable[TensorChunk]
) -> int:
    """Write the file and return its bytes, which are `file_bytes(metadata, infos)`.

    Chunks come in the order of `infos`, any number of them for a tensor. Peak memory: one chunk
    and the header. The data goes to a sibling file that is synced and renamed at the end, so
    `path` is complete or untouched; equal inputs give equal bytes.
    Raises FormatError if a tensor is missing, out of order, or not of its predicted bytes,
    WriteError if the disk refuses.
    """
    expected = file_bytes(metadata, infos)
    aside = path.with_name(f".{path.name}.partial")
    try:
        with aside.open("wb") as file:
            file.writelines(header_parts(metadata, infos))
            _write_tensors(file, alignment_of(metadata), infos, iter(chunks))
            file.flush()
            os.fsync(file.fileno())
            written = file.tell()
        if written != expected:
            raise FormatError(f"{path}: wrote {written} bytes, predicted {expected}")
        aside.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)
    return expected


def _write_tensors(
    file: BinaryIO, alignment: int, infos: Sequence[TensorInfo], chunks: Iterator[TensorChunk]
) -> None:
    if infos:
        _pad(file, alignment)
    for info in infos:
        missing = info.nbytes
        while missing:
            chunk = next(chunks, None)
            if chunk is None or chunk.name != info.name or chunk.data.nbytes > missing:
                got = "the end" if chunk is None else f"{chunk.data.nbytes} of {chunk.name!r}"
                raise FormatError(
                    f"expected {missing} more bytes of {info.name!r} ({info.type}, "
                    f"{list(info.shape)}), got {got}"
                )
            file.write(np.ascontiguousarray(chunk.data).data)
            missing -= chunk.data.nbytes
        _pad(file, alignment)
    extra = next(chunks, None)
    if extra is not None:
        raise FormatError(f"got {extra.data.nbytes} bytes of {extra.name!r} after the last tensor")


def _pad(file: BinaryIO, alignment: int) -> None:
    at = file.tell()
    file.write(b"\x00" * (padded(at, alignment) - at))


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; only systems with folder handles can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
