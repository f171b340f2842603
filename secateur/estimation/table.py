"""An estimate as a table of plain text, for a terminal of 80 columns and for reports."""

from __future__ import annotations

from secateur.estimation.stage import Amount, Estimate, Stage
from secateur.system.sizes import show_bytes, show_count

_HEAD = ("stage", "work", "time", "memory", "disk")


def table(estimate: Estimate) -> list[str]:
    """A line for every stage, and the total with how far it may be off."""
    rows = [_row(stage) for stage in estimate.stages]
    rows.append(
        (
            "all",
            "",
            show_duration(estimate.seconds),
            show_bytes(estimate.memory),
            show_bytes(estimate.disk) if estimate.disk else "-",
        )
    )
    widths = [max(len(row[i]) for row in (_HEAD, *rows)) for i in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in (_HEAD, *rows)]  # fmt: skip
    return [*lines, _sure(estimate), *(f"note: {text}" for text in estimate.notes)]


def show_duration(seconds: float) -> str:
    """For people: 0.4 s, 35 s, 12 min, 3 h 20 min, 2 d 5 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minute = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minute} min"
    return f"{hours // 24} d {hours % 24} h"


def _row(stage: Stage) -> tuple[str, ...]:
    return (
        stage.name,
        ", ".join(map(_show, stage.work)),
        ("at most " if stage.at_most else "") + show_duration(stage.seconds),
        show_bytes(stage.memory),
        show_bytes(stage.disk) if stage.disk else "-",
    )


def _show(amount: Amount) -> str:
    if amount.unit == "bytes":
        return show_bytes(amount.number)
    if amount.unit == "TFLOP":
        power, letter = next(
            (power, letter)
            for power, letter in ((6, "E"), (3, "P"), (0, "T"), (-3, "G"))
            if amount.number >= 10**power or power < 0
        )
        return f"{amount.number / 10**power:.3g} {letter}FLOP"
    if amount.number >= 1e6:
        return f"{amount.number / 1e6:.1f} M {amount.unit}"
    return f"{amount.number:,.0f} {amount.unit}"


def _sure(estimate: Estimate) -> str:
    low, high = (
        show_duration(estimate.seconds / estimate.factor),
        show_duration(estimate.seconds * estimate.factor),
    )
    how = (
        "tried for some seconds on this machine as it is now"
        if estimate.probed
        else "from the size of the work alone, nothing was tried"
    )
    threads = show_count(estimate.workers, "thread")
    return f"{low} to {high} in all with {threads}: {how}"
