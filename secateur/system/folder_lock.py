"""Locks on folders that several processes use: who uses one, and who wants it alone.

A lock ends with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secateur.system.interruption import GO_ON, explained


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Say that this process uses a folder, in which it keeps what is finished; others may use it at
    the same time.

    Waits while another process has the folder alone. Raises OSError when it is not there.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with explained(lambda: f"what is finished is kept in {folder}: {GO_ON}"):
            yield
    finally:
        os.close(descriptor)


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """True with the folder for this process alone, False where another uses it.

    Raises OSError when the folder is not there.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)
