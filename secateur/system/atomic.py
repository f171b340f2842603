"""The one way to write a file: complete or as it was, whatever happens meanwhile.

The data goes to a temporary file in the same folder, is synced to the disk, and is renamed; then
the folder is synced. The temporary file's name holds its machine and process, so that two
processes that write one file do not meet in it, and what a killed process left behind is found
and removed by the next writer of the same file.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from secateur.errors import OutputError, WriteError

_log = logging.getLogger(__name__)

PARTIAL = ".partial"
"""Suffix of temporary files; their names begin with a dot."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The errors of a disk without room."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path` when the block ends, and only then.

    Makes the folder. Raises WriteError, naming `path`, when the disk refuses, OutputError when
    `path` is a folder.
    """
    _refuse_folder(path)
    partial = temporary_path(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(path.parent, re.escape(path.name))
            partial.touch(exist_ok=False)
            mode = partial.stat().st_mode
            yield partial
            sync(partial)
            partial.chmod(mode)  # some libraries write files that only their owner may read
            partial.replace(path)
            sync(path.parent)
            _log.info("%s: written, %s bytes", path, f"{path.stat().st_size:,}")
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """A path next to `path` that no other process or call uses; see `remove_abandoned`."""
    process = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}.{process}{PARTIAL}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the disk inside the block into a WriteError that names `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise cannot_write(path, error) from None


def check_writable(path: Path) -> None:
    """Check that a file can be written, before the work for it begins; makes its folder.

    Raises OutputError when `path` is a folder, WriteError when it cannot be written.
    """
    _refuse_folder(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, complete or as it was. Raises WriteError."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write bytes, complete or as it was. Raises WriteError."""
    with atomic_path(path) as partial:
        partial.write_bytes(data)


def append_bytes(path: Path, data: memoryview) -> None:
    """Add bytes to a file in a folder that is not finished; makes both. Raises WriteError."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)


def write_safetensors(
    path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """Write arrays and a header of strings, complete or as it was. Raises WriteError."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with atomic_path(path) as partial:
        save_file(whole, partial, dict(metadata))


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Sync every file and folder below `folder`, and itself, to the disk. Raises OSError."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync(Path(parent) / name)
        sync(Path(parent))


def cannot_write(path: Path, error: Exception) -> WriteError:
    """The error of a file that could not be written, with the reason and a remedy."""
    reason = getattr(error, "strerror", None) or error
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    return WriteError(
        f"cannot write {path}: {reason} ({free} bytes are free): make room, or choose a folder "
        "you may write to"
    )


def is_partial(path: Path) -> bool:
    """Whether a file is a temporary one, of a running process or left by a killed one."""
    return path.name.startswith(".") and path.suffix == PARTIAL


def remove_partials(folder: Path) -> None:
    """Remove all temporary files below a folder that nobody else writes to. Raises OSError."""
    for path in [path for path in folder.rglob(f".*{PARTIAL}") if path.is_file()]:
        path.unlink()


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes of this machine left in a folder that is shared."""
    with suppress(OSError):
        _remove_abandoned(folder, ".+")


def _refuse_folder(path: Path) -> None:
    if path.is_dir():
        raise OutputError(f"{path} is a folder: name a file to write")


def _remove_abandoned(folder: Path, name: str) -> None:
    pattern = rf"\.{name}\.{re.escape(socket.gethostname())}-(\d+)-[0-9a-f]+{re.escape(PARTIAL)}"
    for path in folder.iterdir():
        found = re.fullmatch(pattern, path.name)
        if found is not None and not _is_alive(int(found[1])):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
