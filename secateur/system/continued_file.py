"""A large file that is written part by part and, when that is interrupted, goes on after the last
whole part.

Until it is finished it is next to its place, as `.NAME.partial`, with a journal,
`.NAME.journal.partial`: first the hash of all that decides its bytes, then a line for every
finished part with the number of parts, the bytes so far, and their sha256. To go on, those bytes
are hashed again, which is needed anyway for the sha256 of the file; if they are not what the
journal says (another plan, or a disk that lost them), the file is begun anew. So nothing has to be
synced on the way, and no state of an encoder has to be kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from secateur.system.atomic import sync, temporary_path, writing
from secateur.system.flushed_file import OutputFile

_BLOCK = 1 << 24
"""Bytes that are read at a time when a partial file is hashed again."""


class ContinuedFile:
    """A file being written; `finish` puts it in its place, leaving the block before does not.

    With a `key`, the hash of whatever decides its bytes, a file that was left unfinished under the
    same key goes on after its `done` parts; only one process may write it at a time. Without a key,
    an unfinished file is removed. `append` may be divided into `write` and `hash`, which another
    thread may do for the same bytes; `note` comes after both. All raise WriteError.
    """

    def __init__(self, path: Path, key: str | None = None) -> None:
        self.path = path
        self.done = 0
        """Parts that are in the file in full."""
        self.at = 0
        """Bytes that are in the file."""
        self._key = key
        self._partial, self._journal = unfinished(path)
        if key is None:
            self._partial = temporary_path(path)
        self._file: OutputFile | None = None
        self._digest = hashlib.sha256()
        if key is not None:
            self._look_for_leftover(key)

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

    def append(self, block: memoryview | bytes) -> None:
        """Add bytes to the end."""
        self.write(block)
        self.hash(block)

    def write(self, block: memoryview | bytes) -> None:
        """Add bytes to the end, which `hash` has to see as well."""
        with writing(self.path):
            if self._file is None:
                self._open()
            assert self._file is not None
            self._file.write(block)
        self.at += len(block)

    def hash(self, block: memoryview | bytes) -> None:
        """See bytes that `write` added, in the same order."""
        self._digest.update(block)

    def note(self, done: int, at: int) -> None:
        """Write down that so many parts are finished, and the bytes up to there."""
        if self._key is not None:
            with writing(self.path), self._journal.open("a") as file:
                file.write(f"{done} {at} {self._digest.copy().hexdigest()}\n")
        self.done = done

    def finish(self) -> str:
        """Sync the file, put it in its place, and return its sha256 (hex)."""
        self.write(b"")
        with writing(self.path):
            assert self._file is not None  # writing opened it
            self._file.sync()
            self._file.close()
            self._partial.replace(self.path)
            self._journal.unlink(missing_ok=True)
            sync(self.path.parent)
        return self._digest.hexdigest()

    def _open(self) -> None:
        """Begin the file, or go on with the one that was left."""
        self._file = OutputFile(self._partial, self.at)
        if self._key is not None and not self.at:
            self._journal.write_text(f"{self._key}\n")

    def _look_for_leftover(self, key: str) -> None:
        """Take over what an interrupted run left, if it is what its journal says."""
        try:
            lines = self._journal.read_text().splitlines()
            if not lines or lines[0] != key:
                return
            done, at, expected = next(
                (int(words[0]), int(words[1]), words[2])
                for words in map(str.split, reversed(lines[1:]))
                if len(words) == 3 and len(words[2]) == self._digest.digest_size * 2
            )
            digest = _sha256_of_first(self._partial, at)
        except (OSError, ValueError, StopIteration):
            return
        if digest.hexdigest() == expected and done > 0:
            self.done, self.at, self._digest = done, at, digest


def unfinished(path: Path) -> tuple[Path, Path]:
    """Where `ContinuedFile` keeps an unfinished file and its journal."""
    return (
        path.with_name(f".{path.name}.partial"),
        path.with_name(f".{path.name}.journal.partial"),
    )


def reusable(files: Mapping[str, int], folder: Path) -> frozenset[Path]:
    """What an interrupted run has left in a folder of files, {name: bytes}: whole files, and what
    `ContinuedFile` goes on with."""
    found: set[Path] = set()
    for name, nbytes in files.items():
        path = folder / name
        if not path.exists():
            found |= {left for left in unfinished(path) if left.exists()}
        elif path.is_file() and path.stat().st_size == nbytes:
            found.add(path)
    return frozenset(found)


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
