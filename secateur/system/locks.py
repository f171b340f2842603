"""Work on one file by one process at a time; a lock ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from secateur.system.atomic import writing

T = TypeVar("T")


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of the file `path`, which need not exist; makes its folder.

    The lock is an empty hidden file next to it, gone afterwards. `on_wait` is called before
    waiting for another process that holds it. Raises WriteError.
    """
    lock = path.with_name(f".{path.name}.lock")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(lock, on_wait)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def made_once(
    path: Path, load: Callable[[], T], make: Callable[[], T], on_wait: Callable[[], None]
) -> T:
    """What the file `path` holds, or what `make` returns once it has written it.

    Of two processes that want it one waits for the other, as in `locked`, and loads.
    """
    if path.exists():
        return load()
    with locked(path, on_wait):
        return load() if path.exists() else make()


def _acquire(lock: Path, on_wait: Callable[[], None]) -> int:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if is_at(descriptor, lock):
            return descriptor
        os.close(descriptor)  # who held it has removed the file meanwhile


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file or folder still has this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
