"""A semaphore with priorities: how many threads may compute at once, and which goes first."""

from __future__ import annotations

import heapq
import threading


class ComputeSlots:
    """`count` permits to compute; a free one is given to the waiting thread of the lowest rank."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: list[tuple[int, int]] = []
        self._changed = threading.Condition()

    def acquire(self, rank: tuple[int, int]) -> None:
        """Wait for a slot. No two waiting threads may have the same `rank`."""
        with self._changed:
            heapq.heappush(self._waiting, rank)
            self._changed.wait_for(lambda: self._free > 0 and self._waiting[0] == rank)
            heapq.heappop(self._waiting)
            self._free -= 1
            # More slots may be free for the threads that are now first.
            self._changed.notify_all()

    def release(self) -> None:
        """Give the slot back."""
        with self._changed:
            self._free += 1
            self._changed.notify_all()
