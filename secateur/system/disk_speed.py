"""How fast a disk gives and takes bytes here and now, by a short try."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from secateur.system.atomic import temporary_path, writing

_BLOCK = 4 << 20
LEAST, _MOST = 64 << 20, 512 << 20
"""Bytes of a try: a disk of a shared machine has bursts, which a long stage does not."""
_SHARE = 16
"""What of a stage's bytes a try may take, where that is more than LEAST."""


def bytes_to_try(moved: int) -> int:
    """How many bytes to try a disk with for a stage that moves so many."""
    return min(max(LEAST, moved // _SHARE), _MOST)


def read_speed(files: Sequence[Path], tried: int = LEAST) -> float:
    """Bytes per second of reading blocks spread over the files, `tried` bytes in all: from the
    disk, or from memory as far as the system holds them there already, as later readers will find
    them.

    Raises OSError for a file that cannot be read.
    """
    start = time.perf_counter()
    read = _read_blocks(files, tried)
    return read / max(time.perf_counter() - start, 1e-6)


def write_speed(folder: Path, tried: int = LEAST) -> float:
    """Bytes per second of writing a file into an existing folder, until it is on the disk.

    The file is removed. Raises WriteError.
    """
    start = time.perf_counter()
    written = _write_blocks(folder, tried)
    return written / max(time.perf_counter() - start, 1e-6)


def copy_speed(files: Sequence[Path], folder: Path, tried: int = LEAST) -> float:
    """Bytes per second, those read and those written counted together, of reading the files as
    `read_speed` does while as much is written as by `write_speed`; raises as these do. Other blocks
    are read than by `read_speed`, which has brought its own into memory."""
    start = time.perf_counter()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(_read_blocks, files, tried, 0.5)
        moved = _write_blocks(folder, tried) + reading.result()
    return moved / max(time.perf_counter() - start, 1e-6)


def _read_blocks(files: Sequence[Path], tried: int, shift: float = 0.0) -> int:
    """Read blocks spread evenly over the files, `shift` of the distance between two further on;
    returns the bytes."""
    sizes = [(path, path.stat().st_size) for path in files]
    total, blocks = sum(size for _, size in sizes), tried // _BLOCK
    places = [int(total * (number + shift) / blocks) for number in range(blocks)]
    read, before = 0, 0
    for path, size in sizes:
        mine = [place - before for place in places if before <= place < before + size]
        before += size
        if mine:
            with path.open("rb", buffering=0) as file:
                for place in mine:
                    file.seek(place)
                    read += len(file.read(_BLOCK))
    return read


def _write_blocks(folder: Path, tried: int) -> int:
    """Write blocks to a file that is synced and then removed; returns the bytes."""
    path = temporary_path(folder / "speed")
    block = os.urandom(_BLOCK)
    try:
        with writing(path), path.open("wb", buffering=0) as file:
            for _ in range(tried // _BLOCK):
                file.write(block)
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)
    return tried // _BLOCK * _BLOCK
