"""Writing a GGUF file from a stream of chunks: bounded memory, complete or absent, resumable.

Until it is finished the file is next to its place under a temporary name. A resumable one is
`.NAME.partial`, and has a journal, `.NAME.journal.partial`: first the hash of all that decides its
bytes, then a line for every finished tensor with the number of tensors, the bytes so far, and
their sha256. To resume, those bytes are hashed again, which is needed anyway for the sha256 of the
file; if they are not what the journal says (another plan, or a disk that lost them), the file is
started anew. So nothing has to be synced on the way, and no state of an encoder has to be kept.
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
from secateur.system.atomic import sync, temporary_path, writing
from secateur.system.flushed_file import OutputFile

_BLOCK = 1 << 24
"""Bytes that are read at a time when a partial file is hashed again."""


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
        self._partial, self._journal = unfinished(path)
        if key is None:
            self._partial = temporary_path(path)
        self._key = None if key is None else self._whole_key(key)
        self._file: OutputFile | None = None
        self._digest = hashlib.sha256()
        self._at = 0
        self.done = 0
        """Tensors that are in the file in full."""
        if self._key is not None:
            self._look_for_leftover(self._key)
        self._missing = self._infos[self.done].nbytes if self.done < len(infos) else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._key is None:
            self._partial.unlink(missing_ok=True)

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
            self._append(bytes(padded(self._at, self._alignment) - self._at))
            self.done += 1
            if self.done < len(self._infos):
                self._missing = self._infos[self.done].nbytes
            self._note()

    def finish(self) -> str:
        """Sync the file, put it in its place, and return its sha256 (hex)."""
        if self.done < len(self._infos):
            raise self._unexpected("the end")
        self._append(b"")
        if self._at != self.nbytes:
            raise FormatError(f"{self.path}: wrote {self._at} bytes, predicted {self.nbytes}")
        with writing(self.path):
            assert self._file is not None  # appending opened it
            self._file.sync()
            self._file.close()
            self._partial.replace(self.path)
            self._journal.unlink(missing_ok=True)
            sync(self.path.parent)
        return self._digest.hexdigest()

    def _append(self, block: memoryview | bytes) -> None:
        with writing(self.path):
            if self._file is None:
                self._open()
            assert self._file is not None
            self._file.write(block)
        self._digest.update(block)
        self._at += len(block)

    def _open(self) -> None:
        """Start the file with its header, or go on with the one that was left."""
        self._file = OutputFile(self._partial, self._at)
        if self._at:
            return
        if self._key is not None:
            self._journal.write_text(f"{self._key}\n")
        # In one piece: it may be a million strings, and every append is a call of the system.
        self._append(b"".join(header_parts(self._metadata, self._infos)))
        if self._infos:
            self._append(bytes(padded(self._at, self._alignment) - self._at))

    def _note(self) -> None:
        """Write down that a tensor is finished."""
        if self._key is None:
            return
        with writing(self.path), self._journal.open("a") as file:
            file.write(f"{self.done} {self._at} {self._digest.copy().hexdigest()}\n")

    def _look_for_leftover(self, key: str) -> None:
        """Take over what an interrupted run left, if it is what its journal says."""
        try:
            lines = self._journal.read_text().splitlines()
            if not lines or lines[0] != key:
                return
            done, at, expected = next(
                (int(words[0]), int(words[1]), words[2])
                for words in map(str.split, reversed(lines[1:]))
                if len(words) == 3 and len(words[2]) == len(key)
            )
            digest = _sha256_of_first(self._partial, at)
        except (OSError, ValueError, StopIteration):
            return
        if digest.hexdigest() == expected and 0 < done <= len(self._infos):
            self.done, self._at, self._digest = done, at, digest

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


def unfinished(path: Path) -> tuple[Path, Path]:
    """Where `GgufWriter` keeps an unfinished file and its journal."""
    return (
        path.with_name(f".{path.name}.partial"),
        path.with_name(f".{path.name}.journal.partial"),
    )


def _sha256_of_first(path: Path, count: int) -> hashlib._Hash:
    """Over the first `count` bytes. Raises ValueError if the file is shorter."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while count:
            block = file.read(min(count, _BLOCK))
            if not block:
                raise ValueError("the file is shorter than its journal says")
            digest.update(block)
            count -= len(block)
    return digest
