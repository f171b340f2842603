"""How long work shows how far it is, on stderr: bars on a terminal, otherwise lines for a log."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from secateur.cli.plain_text import plain_text
from secateur.cli.terminal import tells
from secateur.system.progress import Progress, no_progress
from secateur.system.secret_words import hide_secrets
from secateur.system.sizes import show_amount
from secateur.system.stopwatch import Stopwatch, show_time

STEP = 0.05
"""Share of a stage after which a log gets another line."""

SHORTEST, LONGEST = 5.0, 30.0
"""Seconds between two lines of a stage at least; and between two lines of the log at most."""

_BAR = 16
"""Characters of a bar."""


@contextmanager
def show_progress() -> Iterator[Progress]:
    """A Progress that shows every stage, and keeps how long each took and what was typed."""
    gc.enable()
    with _shown() as progress:
        yield Stopwatch(progress, typed_command(sys.argv[1:]))


def typed_command(words: Sequence[str]) -> str:
    """The command as it was typed, without secrets; of an absolute path only the name, which is
    nobody's home."""
    shown = [
        hide_secrets(
            option
            + equals
            + (Path(value).name if Path(value).expanduser().is_absolute() else value)
        )
        for option, equals, value in (_split_option(word) for word in words)
    ]
    import shlex  # when it is needed: help pages are not to wait for it

    return shlex.join(["secateur", *shown])


def _split_option(word: str) -> tuple[str, str, str]:
    """`--out=/x` as ("--out", "=", "/x"); a word without an option as ("", "", word)."""
    return word.partition("=") if word.startswith("--") and "=" in word else ("", "", word)


@contextmanager
def _shown() -> Iterator[Progress]:
    """Bars on a terminal, lines elsewhere, nothing where quiet was asked for."""
    if not tells("WARNING"):
        yield no_progress
        return
    if sys.stderr.isatty():
        with _bars() as report:
            yield report
        return
    log = LogLines(lambda line: print(plain_text(line), file=sys.stderr, flush=True))
    ended = Event()

    def watch() -> None:
        while not ended.wait(1.0):
            log.break_silence()

    thread = Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield log
    finally:
        ended.set()
        thread.join()


@dataclass
class Stage:
    """How far a stage is; `before` was done when it began, by an interrupted run."""

    name: str
    before: int
    done: int
    total: int
    unit: str
    elapsed: float = 0.0

    @property
    def words(self) -> dict[str, str]:
        """What is said of it, by kind and in order; without a unit only the time."""
        fresh = self.done - self.before
        said = {}
        if self.unit:
            first = show_amount(self.done, self.unit) if self.unit == "bytes" else f"{self.done:,}"
            said["share"] = f"{self.share:.0%}".replace("%", " %")
            said["amount"] = f"{first} of {show_amount(self.total, self.unit)}"
            if fresh and self.elapsed:
                said["rate"] = f"{_show_rate(fresh / self.elapsed, self.unit)}/s"
        said["elapsed"] = show_time(self.elapsed)
        if fresh > 0 and self.done < self.total and self.elapsed:
            left = (self.total - self.done) * self.elapsed / fresh
            said["left"] = f"{show_time(left)} left"
        return said

    @property
    def share(self) -> float:
        """What is done of it, 0 to 1."""
        return self.done / self.total if self.total else 1.0

    def sentence(self) -> str:
        """`35 %, 1.20 GB of 3.40 GB, 80.00 MB/s, 0:15, 0:28 left`; without a unit only the time."""
        return ", ".join(self.words.values())

    def line(self, width: int, *, plain: bool = False) -> str:
        """Name, bar and words in at most `width` characters; what says least is left out first.

        `plain` draws the bar with ASCII characters.
        """
        filled, empty = "#-" if plain else "━╌"
        full = round(self.share * _BAR)
        bar = filled * full + empty * (_BAR - full) if self.unit else ""
        for dropped in ((), ("bar",), ("bar", "amount"), ("bar", "amount", "rate")):
            words = [word for kind, word in self.words.items() if kind not in dropped]
            parts = [self.name, *([bar] if bar and "bar" not in dropped else []), ", ".join(words)]
            line = "  ".join(parts)
            if len(line) <= width:
                return line
        room = max(1, width - len(parts[-1]) - 5)
        return f"{self.name[:room]}...  {parts[-1]}"[: max(0, width)]


@dataclass
class _LoggedStage:
    """When a stage began, and when and at what share its last line was written."""

    stage: Stage
    began: float
    at: float
    share: float = 0.0
    ended: bool = False


class LogLines:
    """A Progress that writes a line when a stage begins and ends, and now and then between."""

    def __init__(
        self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._stages: dict[str, _LoggedStage] = {}
        self._last: _LoggedStage | None = None
        self._written_at = 0.0
        self._lock = Lock()

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        with self._lock:
            now = self._clock()
            known = self._stages.get(stage)
            if known is None:
                known = _LoggedStage(Stage(stage, done, done, total, unit), now, now)
                self._stages[stage] = known
                self._write_text(
                    f"[{stage}] begins{f' ({show_amount(total, unit)})' if unit else ''}"
                )
            self._last = known
            if known.ended:
                return
            known.stage.done, known.stage.total = done, total
            known.stage.elapsed = now - known.began
            since = now - known.at
            known.ended = done >= total
            moved = known.stage.share - known.share > STEP - 1e-9
            if known.ended or (since >= SHORTEST and moved) or since >= LONGEST:
                self._write_line(known, now)

    def break_silence(self) -> None:
        """Write a line if there was none for LONGEST seconds: the work goes on."""
        with self._lock:
            now, last = self._clock(), self._last
            if last is None or now - self._written_at < LONGEST:
                return
            if last.ended:
                self._write_text(
                    f"[{last.stage.name}] ended {show_time(now - last.at)} ago, working on"
                )
            else:
                last.stage.elapsed = now - last.began
                self._write_line(last, now)

    def _write_line(self, known: _LoggedStage, now: float) -> None:
        known.at, known.share = now, known.stage.share
        self._write_text(f"[{known.stage.name}] {known.stage.sentence()}")

    def _write_text(self, line: str) -> None:
        self._written_at = self._clock()
        self._write(line)


@contextmanager
def _bars() -> Iterator[Progress]:
    """One line a stage."""
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import ProgressColumn, Task
    from rich.table import Column
    from rich.text import Text

    console = Console(stderr=True)

    class Line(ProgressColumn):
        """What a stage says of itself."""

        def render(self, task: Task) -> Text:
            stage: Stage = task.fields["stage"]
            stage.elapsed = task.finished_time or task.elapsed or 0.0
            plain = console.options.ascii_only
            return Text(plain_text(stage.line(console.width, plain=plain)))

    with Bars(Line(table_column=Column(no_wrap=True)), console=console) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int, unit: str) -> None:
            if stage not in tasks:
                known = Stage(stage, done, done, total, unit)
                tasks[stage] = bars.add_task(stage, total=total, stage=known), known
            number, known = tasks[stage]
            known.done, known.total = done, total
            bars.update(number, completed=done, total=total)

        yield report


def _show_rate(rate: float, unit: str) -> str:
    """With a digit behind the point where it is small."""
    return f"{rate:.1f} {unit}" if unit != "bytes" and rate < 10 else show_amount(rate, unit)
