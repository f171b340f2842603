"""Commands that run until they are stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class _Stopped(Exception):
    """SIGTERM has come."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """A block that ends without an error at Ctrl-C and at SIGTERM."""

    def stop(*_: object) -> None:
        raise _Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with suppress(_Stopped, KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
