"""BLAS in one thread: the same bits on every machine of a kind, whatever its number of cores.

Rows are worked on by threads of our own, so that a team of BLAS threads would only be in the way.
The limit is the process's, and holds as long as somebody wants it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

_lock = threading.Lock()
_wanted = 0
_limit: threadpool_limits | None = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Inside, BLAS and LAPACK compute in the thread that calls them; any thread may ask."""
    global _wanted, _limit  # noqa: PLW0603 - the limit is the process's as well
    with _lock:
        if _wanted == 0:
            _limit = threadpool_limits(1, user_api="blas")
        _wanted += 1
    try:
        yield
    finally:
        with _lock:
            _wanted -= 1
            if _wanted == 0 and _limit is not None:
                _limit.restore_original_limits()
                _limit = None
