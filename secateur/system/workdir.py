"""An output folder that is complete or absent, whatever happens while it is being made."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from secateur.errors import InputError, NumericError, OutputError, WriteError

SUFFIX = ".secateur-incomplete"
"""Of the folder in which an output is made, beside its final place."""

_FUTILE = (InputError, NumericError)
"""Errors that the same inputs give again."""

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES}


@contextmanager
def complete_or_absent(path: Path, key: str | None = None) -> Iterator[Path]:
    """Yield a folder to fill; at the end, and only then, it becomes `path`.

    The folder lies beside `path`, named with SUFFIX. When the block ends well, every file and
    folder is synced to disk and the folder is renamed. When it raises, KeyboardInterrupt
    included, it is removed. A kill -9 leaves it behind, and the next run removes it.

    With a `key`, the hash of all that decides what is made, an interrupted run is gone on with:
    what it had made is yielded to the next one of the same key. Then only an error that the same
    inputs would give again removes it.

    Raises OutputError when `path` exists, when another process is making it, or when the work of
    another key lies beside it; WriteError when the disk fails or is full.
    """
    path = Path(os.path.abspath(path))
    _refuse(path)
    aside = path.with_name(path.name + SUFFIX)
    lock = _claim(path, aside, key)
    made = aside if key is None else aside / key
    try:
        yield made
        sync_all(made)
        _refuse(path)
        made.rename(path)
        if key is not None:
            aside.rmdir()
        _sync_one(path.parent)
    except BaseException as error:
        if key is None or isinstance(error, _FUTILE):
            shutil.rmtree(aside, ignore_errors=True)
        else:
            _remove_if_empty(made, aside)
        if isinstance(error, OSError) and error.errno in _DISK:
            raise _cannot(path, error) from None
        raise
    finally:
        os.close(lock)


def ready_for(path: Path) -> None:
    """Check that the file `path` can be written, before the work for it begins.

    Makes its folder. Raises OutputError when it is a folder, WriteError when it cannot be made.
    """
    path = Path(os.path.abspath(path))
    if path.is_dir():
        raise OutputError(f"{path} is a folder: name a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _cannot(path, error) from None


def write_whole(path: Path, text: str | bytes) -> None:
    """Write a text or bytes file that is complete or as it was. Raises as `ready_for` does."""
    ready_for(path)
    aside = path.with_name(f".{path.name}.partial")
    try:
        with aside.open("wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise _cannot(path, error) from None
    finally:
        aside.unlink(missing_ok=True)


def sync_all(folder: Path) -> None:
    """Sync every file and folder below `folder`, and itself, to disk."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            _sync_one(Path(parent) / name)
        _sync_one(Path(parent))


def _refuse(path: Path) -> None:
    if os.path.lexists(path):
        raise OutputError(f"{path} exists already: remove it, or name another output folder")


def _claim(path: Path, aside: Path, key: str | None) -> int:
    """Make `aside` and lock it; the lock dies with the process, so a free one is a leftover.

    Raises OutputError for a leftover of another key than `key`.
    """
    try:
        aside.mkdir(parents=True, exist_ok=True)
        lock = _lock(path, aside)
        if key is None:
            shutil.rmtree(aside)
            os.close(lock)
            aside.mkdir()
            return _lock(path, aside)
        if other := next((one for one in sorted(aside.iterdir()) if one.name != key), None):
            os.close(lock)
            raise OutputError(
                f"{other} is the unfinished work of another plan, importance matrix or version: "
                f"finish that one with the plan.json in it, or remove {aside}"
            )
        (aside / key).mkdir(exist_ok=True)
        return lock
    except OSError as error:
        raise _cannot(path, error) from None


def _remove_if_empty(*folders: Path) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _lock(path: Path, folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OutputError(
            f"another secateur process is writing {path} right now: wait for it, "
            "or name another output folder"
        ) from None
    return descriptor


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot(path: Path, error: OSError) -> WriteError:
    return WriteError(
        f"cannot write {path}: {error.strerror}: make room, or choose a folder you may write to"
    )
