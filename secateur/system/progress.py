"""How far long work has come: one type, from the innermost loop to the progress bar."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Protocol


class Progress(Protocol):
    """Called with the name of the stage, how much of it is done, how much there is, and the unit.

    `done` counts from 0 and never falls within a stage; `unit` is what is counted: "tokens",
    "bytes", "answers".
    """

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None: ...


def no_progress(stage: str, done: int, total: int, unit: str) -> None:
    """Report to nobody: the default of every function that takes a Progress."""


def within(whole: str, progress: Progress) -> Progress:
    """The same progress, for a part of something: its stages are named after the whole first."""
    return lambda stage, done, total, unit: progress(f"{whole}: {stage}", done, total, unit)


class Counter:
    """Adds up the steps of a stage and reports the sum; may be called from any thread.

    `steps` are all that will be counted, where that is not the `total` to show: tokens that go
    through 30 layers are 30 steps each, and half done after 15. An earlier run did `before` of the
    steps. Reports those at once, so that a stage is known from its beginning.
    """

    def __init__(
        self,
        progress: Progress,
        stage: str,
        total: int,
        unit: str,
        *,
        steps: int | None = None,
        before: int = 0,
    ) -> None:
        self._report: Callable[[int], None] = lambda done: progress(stage, done, total, unit)
        self._lock = Lock()
        self._shown, self._steps = (total, steps) if steps else (1, 1)
        self._done = before
        self(0)

    def __call__(self, step: int) -> None:
        with self._lock:
            self._done += step
            self._report(self._done * self._shown // self._steps)
