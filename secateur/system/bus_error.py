"""Weights that are cut short while they are mapped, or whose disk fails: a sentence before the end.

Reading a page of a mapped file that is no longer there sends SIGBUS to the thread that reads, and
the process cannot go on: it ends as a kill would end it, what was finished is kept.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SENTENCE = (
    "a file became shorter while it was read, or its disk failed: put it back, and the same "
    "command goes on after what is finished"
)
EXIT_CODE = 1
_SHOW_CURSOR = "\x1b[?25h\n"
"""A progress bar hides it."""


@contextmanager
def explained_bus_errors() -> Iterator[None]:
    """Inside the block a process that meets SIGBUS says why, and ends with EXIT_CODE.

    Python's own handlers run after the instruction that failed, which never ends. This one is
    called in its place: that is safe here, because it is the reading itself that failed, so that
    its thread either has Python's lock or can wait for it. It holds for the whole process, so only
    the command line calls it.
    """
    said = f"{_SHOW_CURSOR if sys.stderr.isatty() else ''}secateur: {SENTENCE}\n".encode()

    def end(_number: int) -> None:
        os.write(2, said)
        os._exit(EXIT_CODE)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes = (ctypes.c_int, ctypes.c_void_p)
    set_handler.restype = ctypes.c_void_p
    before = set_handler(signal.SIGBUS, ctypes.cast(handler, ctypes.c_void_p))
    try:
        yield
    finally:
        set_handler(signal.SIGBUS, before)
