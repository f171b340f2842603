"""What reaches the terminal: results on stdout, notes and progress bars on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from secateur.system.progress import Progress, no_progress


def show(data: Any, lines: list[str], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(data, indent=1, ensure_ascii=False, default=str) + "\n")
    else:
        write_lines(lines)


def note(sentence: str) -> None:
    """A sentence beside the result, for the person who waits."""
    sys.stderr.write(f"{sentence}\n")


def write_lines(lines: list[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """One bar per stage on stderr: share, amount, rate and time left. Silent without a terminal."""
    from rich.console import Console

    from secateur.cli.render.results import amount

    console = Console(stderr=True)
    if not console.is_terminal:
        yield no_progress
        return
    from rich.progress import (
        BarColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int, unit: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, amount="")
            task = next(t for t in bars.tasks if t.id == tasks[stage])
            rate = f", {amount(task.speed, unit)}/s" if task.speed else ""
            bars.update(
                tasks[stage],
                completed=done,
                total=total,
                amount=f"{amount(done, unit)} of {amount(total, unit)}{rate}",
            )

        yield report


def leave(message: str, code: int) -> NoReturn:
    """Say why in one line, and exit."""
    sys.stderr.write(f"secateur: {' '.join(message.split())}\n")
    sys.exit(code)
