"""An output folder that is complete or absent, and the work folder in which it is made.

The work folder lies next to the output, so that the finished output is put in its place by one
rename. It is locked while a process uses it; the lock ends with the process, however that ends.
What an interrupted run leaves in it is there for the next one.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from secateur.errors import InputError, NumericError, OutputError, ReadError
from secateur.system.atomic import FULL, cannot_write, remove_partials, sync, sync_tree, writing
from secateur.system.interruption import GO_ON, explained
from secateur.system.locks import is_at

_log = logging.getLogger(__name__)

SUFFIX = ".secateur-incomplete"
"""Of the work folder's name, after the name of the output."""


@contextmanager
def complete_or_absent(path: Path, key: str | None = None) -> Iterator[Path]:
    """A folder to fill; when the block ends well, and only then, it becomes `path`.

    `key` is the hash of all that decides what is made: what an interrupted run of the same key
    made is in the folder already, and only an error that the same inputs would give again removes
    it. Without a key nothing is kept, whatever ends the block.
    Raises OutputError when `path` exists, when another process is making it, or when work of
    another key is there; WriteError when the disk fails.
    """
    with work_folder(path) as work:
        if key is None:
            _empty(work)
        elif other := next((one for one in sorted(work.iterdir()) if one.name != key), None):
            raise OutputError(
                f"{other} is the unfinished work of another plan, importance matrix, version, or "
                f"--device: finish that one with the plan.json in it, or remove {work}"
            )
        folder = work / (key or "output")
        with writing(path):
            folder.mkdir(exist_ok=True)
        try:
            yield folder
            publish(folder, path)
        except BaseException as error:
            finished = os.path.lexists(path)  # but somebody else took its place
            if key is None or (_repeats(error) and not finished):
                shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # an empty folder is of no use to anybody
                folder.rmdir()
            raise


@contextmanager
def work_folder(path: Path, *, replaces: bool = False) -> Iterator[Path]:
    """The locked work folder of the output `path`, with what an interrupted run left in it.

    It is removed with all that is in it when the block ends well and `path` exists, and when it is
    empty. Raises OutputError when another process is making `path`, or when it exists and nothing
    `replaces` it; WriteError when the folder cannot be made, or when the disk fails inside it
    during the block.
    """
    path = Path(os.path.abspath(path))
    if not replaces:
        refuse_existing(path)
    work = path.with_name(path.name + SUFFIX)
    with writing(path):
        lock = _lock(path, work)
    _log.info("%s: work folder, with %d entries of an earlier run", work, len(os.listdir(work)))

    def kept() -> str | None:
        return f"what is done is kept in {work}: {GO_ON}" if any(work.iterdir()) else None

    try:
        if not replaces:  # another process may have finished it while this one began
            refuse_existing(path)
        with explained(kept):
            yield work
        if path.exists():
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        if _is_about(work, error):
            raise cannot_write(path, error) from None
        raise
    finally:
        with suppress(OSError):
            work.rmdir()
        os.close(lock)


def publish(folder: Path, path: Path) -> None:
    """Sync a finished folder to the disk and rename it to `path`.

    Raises OutputError when `path` has appeared meanwhile, WriteError when the disk fails.
    """
    with writing(path):
        remove_partials(folder)
        sync_tree(folder)
        refuse_existing(path)
        folder.rename(path)
        sync(path.parent)
    _log.info("%s: complete", path)


def publish_files(files: Sequence[Path], folder: Path) -> None:
    """Sync finished files to the disk and rename them into `folder`, of the same disk, in this
    order; those that are not there are there already. Raises WriteError."""
    for file in files:
        target = folder / file.name
        with writing(target):
            if file.exists():
                sync(file)
                file.replace(target)
                sync(folder)


def refuse_existing(path: Path) -> None:
    """Raise OutputError when there is anything at `path`, be it a link to nothing."""
    if os.path.lexists(path):
        raise OutputError(f"{path} exists already: name an output folder that does not exist yet")


def _repeats(error: BaseException) -> bool:
    """Whether the same inputs give an error again: not where they could not be read."""
    return isinstance(error, (InputError, NumericError)) and not isinstance(error, ReadError)


def _is_about(work: Path, error: OSError) -> bool:
    """Whether the disk under the work folder failed, and not the network or some other file."""
    if error.filename is None:
        return error.errno in (*FULL, errno.EIO)
    return Path(os.fsdecode(error.filename)).is_relative_to(work)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _lock(path: Path, folder: Path) -> int:
    """Make and lock a folder, until the descriptor that is returned is closed or the process
    ends."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # who had it has removed it meanwhile
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise OutputError(
                    f"another secateur process is making {path} right now: wait for it, "
                    "or name another output folder"
                ) from None
            if is_at(descriptor, folder):
                return descriptor
            os.close(descriptor)
