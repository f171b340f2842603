"""Writing a GGUF file from a stream of chunks: bounded memory, complete or absent, resumable.

A finished tensor is a part of a file that can be continued (system.continued_file).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from secateur.errors import FormatError
from secateur.formats.gguf.container import (
    Metadata,
    TensorInfo,
    alignment_of,
    file_bytes,
    header_parts,
    padded,
)
from secateur.system.continued_file import ContinuedFile


class TensorChunk(NamedTuple):
    """Some encoded bytes of a tensor; a tensor's chunks follow one another in row order."""

    name: str
    data: NDArray[np.uint8]


def write_gguf(
    path: Path, metadata: Metadata, infos: Sequence[TensorInfo], chunks: Iterable[TensorChunk]
) -> int:
    """Write the file and return its bytes, which are `file_bytes(metadata, infos)`.

    Chunks come in the order of `infos`, any number of them for a tensor. Peak memory: one chunk
    and the header. `path` is complete or untouched; equal inputs give equal bytes.
    Raises FormatError if a tensor is missing, out of order, or not of its predicted bytes,
    WriteError if the disk refuses.
    """
    with GgufWriter(path, metadata, infos) as writer:
        for chunk in chunks:
            writer.write(chunk)
        writer.finish()
    return writer.nbytes


class GgufWriter:
    """A GGUF file being written; `finish` puts it in its place, leaving the block before does not.

    With a `key`, the hash of whatever decides the tensors' bytes, a file that was left unfinished
    under the same key and header is resumed: `done` tensors are there already, and chunks start
    with the next. Only one process may write such a file at a time. Without a key, an unfinished
    file is removed. Peak memory: the header.
    """

    def __init__(
        self, path: Path, metadata: Metadata, infos: Sequence[TensorInfo], key: str | None = None
    ) -> None:
        self.path = path
        self.nbytes = file_bytes(metadata, infos)
        """Exact bytes of the file."""
        self._metadata, self._infos = metadata, tuple(infos)
        self._alignment = alignment_of(metadata)
        self._file = ContinuedFile(path, None if key is None else self._whole_key(key))
        self._missing = self._infos[self.done].nbytes if self.done < len(infos) else 0

    @property
    def done(self) -> int:
        """Tensors that are in the file in full."""
        return self._file.done

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def write(self, chunk: TensorChunk) -> None:
        """Append a chunk of the next unfinished tensor."""
        if self.done == len(self._infos):
            raise FormatError(
                f"got {chunk.data.nbytes} bytes of {chunk.name!r} after the last tensor"
            )
        info = self._infos[self.done]
        if chunk.name != info.name or chunk.data.nbytes > self._missing:
            raise self._unexpected(f"{chunk.data.nbytes} of {chunk.name!r}")
        self._append(np.ascontiguousarray(chunk.data).reshape(-1).view(np.uint8).data)
        self._missing -= chunk.data.nbytes
        if not self._missing:
            self._pad()
            self._file.note(self.done + 1, self._file.at)
            if self.done < len(self._infos):
                self._missing = self._infos[self.done].nbytes

    def finish(self) -> str:
        """Sync the file, put it in its place, and return its sha256 (hex)."""
        if self.done < len(self._infos):
            raise self._unexpected("the end")
        self._append(b"")
        if self._file.at != self.nbytes:
            raise FormatError(f"{self.path}: wrote {self._file.at} bytes, predicted {self.nbytes}")
        return self._file.finish()

    def _append(self, block: memoryview | bytes) -> None:
        if not self._file.at:
            # In one piece: it may be a million strings, and every append is a call of the system.
            self._file.append(b"".join(header_parts(self._metadata, self._infos)))
            if self._infos:
                self._pad()
        self._file.append(block)

    def _pad(self) -> None:
        self._file.append(bytes(padded(self._file.at, self._alignment) - self._file.at))

    def _whole_key(self, key: str) -> str:
        digest = hashlib.sha256(key.encode())
        for part in header_parts(self._metadata, self._infos):
            digest.update(part)
        return digest.hexdigest()

    def _unexpected(self, got: str) -> FormatError:
        info = self._infos[self.done]
        return FormatError(
            f"expected {self._missing} more bytes of {info.name!r} ({info.type}, "
            f"{list(info.shape)}), got {got}"
        )
