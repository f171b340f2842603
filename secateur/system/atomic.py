"""The one way to write a file: complete or as it was, whatever happens meanwhile.

The data goes to a temporary file in the same folder, is synced to the disk, and is renamed; then
the folder is synced. The temporary file's name holds its process, so that two processes that write
one file do not meet in it, and what a killed process left behind is found and removed by the next
writer of the same file.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from secateur.errors import WriteError

PARTIAL = ".partial"
"""Suffix of temporary files; their names begin with a dot."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path` when the block ends, and only then.

    Makes the folder. Raises WriteError, naming `path`, when the disk refuses.
    """
    name = f"{_prefix(path.name)}{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}"
    partial = path.with_name(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        partial.touch(exist_ok=False)
        mode = partial.stat().st_mode
        yield partial
        sync(partial)
        partial.chmod(mode)  # some libraries write files that only their owner may read
        partial.replace(path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise cannot_write(path, error) from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, complete or as it was. Raises WriteError."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write bytes, complete or as it was. Raises WriteError."""
    with atomic_path(path) as partial:
        partial.write_bytes(data)


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
    return WriteError(
        f"cannot write {path}: {reason}: make room, or choose a folder you may write to"
    )


def _prefix(name: str) -> str:
    """How the temporary files of `name` begin that this machine makes."""
    return f".{name}.{socket.gethostname()}-"


def _remove_leftovers(path: Path) -> None:
    """Remove what processes of this machine left that were killed while they wrote `path`."""
    for partial in path.parent.iterdir():
        if partial.name.startswith(_prefix(path.name)) and partial.suffix == PARTIAL:
            process = partial.name.removeprefix(_prefix(path.name)).partition("-")[0]
            if process.isdecimal() and not _is_alive(int(process)):
                partial.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
