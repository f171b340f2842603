"""How long work shows how far it is, on stderr: bars on a terminal, otherwise lines for a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from secateur.system.progress import Progress
from secateur.system.sizes import show_amount

STEP = 0.05
"""Share of a stage after which a log gets another line."""

SHORTEST, LONGEST = 5.0, 30.0
"""Seconds between two lines of a stage at least; and at most, if anything was done."""


@contextmanager
def show_progress() -> Iterator[Progress]:
    """A Progress that shows every stage with its share, amount, rate, and time taken and left."""
    if sys.stderr.isatty():
        with _bars() as report:
            yield report
    else:
        yield LogLines(lambda line: print(line, file=sys.stderr, flush=True))


def describe(done: int, total: int, unit: str, elapsed: float) -> str:
    """`35 %, 1.20 GB of 3.40 GB, 80.00 MB/s, 0:15, 0:28 left`; without a unit only the times."""
    words = []
    if unit:
        share = done / total if total else 1.0
        first = show_amount(done, unit) if unit == "bytes" else f"{done:,}"
        words += [f"{share:.0%}".replace("%", " %"), f"{first} of {show_amount(total, unit)}"]
        if done and elapsed:
            words.append(f"{show_amount(done / elapsed, unit)}/s")
    words.append(show_time(elapsed))
    if 0 < done < total and elapsed:
        words.append(f"{show_time((total - done) * elapsed / done)} left")
    return ", ".join(words)


def show_time(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any: 0:07, 12:30, 5:04:00."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


@dataclass
class _Stage:
    """When a stage began, and when and at what share its last line was written."""

    began: float
    told_at: float
    share: float = 0.0
    ended: bool = False


class LogLines:
    """A Progress that writes a line when a stage begins and ends, and now and then between."""

    def __init__(
        self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._stages: dict[str, _Stage] = {}

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        now = self._clock()
        known = self._stages.get(stage)
        if known is None:
            known = self._stages[stage] = _Stage(now, now)
            amount = f" ({show_amount(total, unit)})" if unit else ""
            self._write(f"[{stage}] begins{amount}")
        if known.ended:
            return
        share = done / total if total else 1.0
        since = now - known.told_at
        known.ended = done >= total
        if (
            known.ended
            or (since >= SHORTEST and share - known.share > STEP - 1e-9)
            or since >= LONGEST
        ):
            known.told_at, known.share = now, share
            self._write(f"[{stage}] {describe(done, total, unit, now - known.began)}")


@contextmanager
def _bars() -> Iterator[Progress]:
    """One bar a stage."""
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
    from rich.progress import Progress as Bars
    from rich.table import Column
    from rich.text import Text

    class Details(ProgressColumn):
        """What `describe` says of a stage."""

        def render(self, task: Task) -> Text:
            return Text(
                describe(
                    int(task.completed),
                    int(task.total or 0),
                    task.fields["unit"],
                    task.finished_time or task.elapsed or 0.0,
                )
            )

    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=16),
        Details(table_column=Column(no_wrap=True)),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int, unit: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, unit=unit)
            bars.update(tasks[stage], completed=done, total=total)

        yield report
