"""What the stages of some work took, from the Progress that they report anyway."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

from secateur.system.progress import Progress


class Stopwatch:
    """A Progress that passes everything on, and notes when each stage ended.

    A stage's time runs from the end of the one before it, so that what lies between two stages
    belongs to the later one, and all times add up to the whole.
    """

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress, self._clock = progress, clock
        self._lock = Lock()
        self._last = clock()
        self._seconds: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        with self._lock:
            now = self._clock()
            self._seconds[stage] = self._seconds.get(stage, 0.0) + now - self._last
            self._last = now
        self._progress(stage, done, total, unit)

    def restart(self) -> None:
        """Leave out the time until now."""
        with self._lock:
            self._last = self._clock()

    def seconds(self, *beginnings: str) -> float:
        """Of all stages whose names begin with one of these."""
        return sum(took for name, took in self._seconds.items() if name.startswith(beginnings))
