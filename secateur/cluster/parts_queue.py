"""The parts of a work that wait to be made: in order, one whose worker was lost first of all."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

ATTEMPTS = 4
"""Times that a part is tried whose worker is lost: more are no accident."""


class Taken(NamedTuple):
    """A part that is being made, for the how-manieth time."""

    name: str
    attempt: int


class PartsQueue:
    """Parts by name; any thread may take one."""

    def __init__(self, names: Iterable[str], attempts: int | None = ATTEMPTS) -> None:
        self._waiting = deque(Taken(name, 1) for name in names)
        self._attempts = attempts
        self._stopped = False
        self._lock = threading.Lock()

    def take(self) -> Taken | None:
        """The next part; None where none waits."""
        with self._lock:
            return self._waiting.popleft() if self._waiting and not self._stopped else None

    def lost(self, part: Taken) -> bool:
        """Let a part whose worker was lost wait again; False where it was tried too often."""
        if self._attempts is not None and part.attempt >= self._attempts:
            return False
        with self._lock:
            self._waiting.appendleft(Taken(part.name, part.attempt + 1))
        return True

    def stop(self) -> None:
        """Give out no more parts."""
        with self._lock:
            self._stopped = True

    @property
    def is_empty(self) -> bool:
        """Whether no part waits."""
        with self._lock:
            return self._stopped or not self._waiting
