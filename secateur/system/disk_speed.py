"""How fast a disk gives and takes bytes here and now, by a short try."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from secateur.system.atomic import temporary_path, writing

_BLOCK = 4 << 20
_BLOCKS = 16
"""Blocks that are read or written: 64 MiB."""


def read_speed(files: Sequence[Path]) -> float:
    """Bytes per second of reading blocks spread over the files: from the disk, or from memory as
    far as the system holds them there already, as later readers will find them.

    Raises OSError for a file that cannot be read.
    """
    sizes = [(path, path.stat().st_size) for path in files]
    total = sum(size for _, size in sizes)
    places = [total * number // _BLOCKS for number in range(_BLOCKS)]
    read, before = 0, 0
    start = time.perf_counter()
    for path, size in sizes:
        mine = [place - before for place in places if before <= place < before + size]
        before += size
        if mine:
            with path.open("rb", buffering=0) as file:
                for place in mine:
                    file.seek(place)
                    read += len(file.read(_BLOCK))
    return read / max(time.perf_counter() - start, 1e-6)


def write_speed(folder: Path) -> float:
    """Bytes per second of writing a file into an existing folder, until it is on the disk.

    The file is removed. Raises WriteError.
    """
    path = temporary_path(folder / "speed")
    block = os.urandom(_BLOCK)
    try:
        with writing(path):
            start = time.perf_counter()
            with path.open("wb", buffering=0) as file:
                for _ in range(_BLOCKS):
                    file.write(block)
                os.fsync(file.fileno())
            taken = time.perf_counter() - start
    finally:
        path.unlink(missing_ok=True)
    return _BLOCK * _BLOCKS / max(taken, 1e-6)
