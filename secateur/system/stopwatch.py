"""How long the stages of some work took, by what they report of their progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from secateur.system.progress import Progress


class Expectation(Protocol):
    """What some work was expected to take (estimation.stage.Estimate)."""

    def to_json(self, took: Mapping[str, float]) -> dict[str, Any]:
        """As JSON, beside what the stages of the Progress took in seconds."""


@dataclass
class Stopwatch:
    """A Progress that hands on what it is told, and keeps when a stage was first and last heard of.

    `command` is the line that was typed, where there was one, `estimate` what was expected.
    """

    progress: Progress
    command: str = ""
    clock: Callable[[], float] = time.monotonic
    estimate: Expectation | None = None
    _heard: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._began = self.clock()

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        now = self.clock()
        first, _ = self._heard.get(stage, (now, now))
        self._heard[stage] = first, now
        self.progress(stage, done, total, unit)

    @property
    def seconds(self) -> dict[str, float]:
        """{stage: seconds between the first and the last that was heard of it}, in order."""
        return {stage: last - first for stage, (first, last) in list(self._heard.items())}

    @property
    def total(self) -> float:
        """Seconds since it was started."""
        return self.clock() - self._began


def timed(progress: Progress) -> Stopwatch:
    """The progress if it is a Stopwatch, which goes on; else a new one around it."""
    return progress if isinstance(progress, Stopwatch) else Stopwatch(progress)


def show_duration(seconds: float) -> str:
    """Seconds in words: `37 s`, `2 min 58 s`, `5 h 4 min`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minute} min"
    return f"{minutes} min {second} s" if minutes else f"{second} s"


def show_time(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any: 0:07, 12:30, 5:04:00."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
