"""Settings of glibc's memory allocator, for commands that run a model layer by layer."""

from __future__ import annotations

import ctypes
from contextlib import suppress

from secateur.system.resources import cores

LARGE_BLOCK = 8 << 20
"""Bytes from which on a block of memory goes back to the system as soon as it is freed."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""glibc's numbers (malloc.h)."""


def return_large_blocks() -> None:
    """Let glibc map every block of LARGE_BLOCK and more by itself, and unmap it when it is freed;
    and let threads share `count_heaps` heaps for smaller ones.

    Left alone it soon takes blocks of up to 32 MiB from its threads' heaps, and holes stay in
    them: at 26B size a gigabyte that nobody uses. Each heap also keeps up to four large blocks'
    worth of freed memory at its end, and a pass has a dozen threads. It holds for the whole process
    and cannot be taken back, so only the command line calls it; a program that uses secateur as a
    library may. Without glibc nothing happens.
    """
    with suppress(AttributeError, OSError, TypeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(_M_MMAP_THRESHOLD, LARGE_BLOCK)
        # Setting one ends the growing of the other: at its first value smaller blocks would go
        # back and forth as well.
        set_option(_M_TRIM_THRESHOLD, 4 * LARGE_BLOCK)
        set_option(_M_ARENA_MAX, count_heaps())


def count_heaps() -> int:
    """As many as threads can use without waiting for each other much."""
    return max(2, cores() // 2)
