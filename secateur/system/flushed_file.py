"""A file being written that the disk is kept busy with, so that the last sync is short."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

FLUSH = 256 << 20
"""Bytes after which the disk is set to work, rather than at the end with all of them."""


class OutputFile:
    """A file that is written from `position` on; what follows that is cut off.

    Memory: none of its own. OSErrors of the flushing thread are raised by the next call.
    """

    def __init__(self, path: Path, position: int = 0) -> None:
        with ExitStack() as stack:
            mode = "r+b" if position else "wb"
            self._descriptor = stack.enter_context(path.open(mode, buffering=0)).fileno()
            os.ftruncate(self._descriptor, position)
            os.lseek(self._descriptor, position, os.SEEK_SET)
            self._flusher = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="flush"))
            self._stack = stack.pop_all()
        self._unflushed = 0
        self._flush: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, block: memoryview | bytes) -> None:
        """Write all of the block."""
        left = memoryview(block)
        self._unflushed += len(left)
        while left:
            left = left[os.write(self._descriptor, left) :]
        if self._unflushed >= FLUSH and (self._flush is None or self._flush.done()):
            self.flushed()
            self._flush = self._flusher.submit(_sync, self._descriptor)
            self._unflushed = 0

    def sync(self) -> None:
        """Wait until all that was written is on the disk."""
        self.flushed()
        os.fsync(self._descriptor)

    def close(self) -> None:
        self._stack.close()

    def flushed(self) -> None:
        """Wait for the last flush; what it failed with is raised here."""
        if self._flush is not None:
            self._flush.result()


def _sync(descriptor: int) -> None:
    """The data to the disk; macOS has no fdatasync."""
    getattr(os, "fdatasync", os.fsync)(descriptor)
