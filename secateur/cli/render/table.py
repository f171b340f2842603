"""A table among the lines of a result: ruled on a terminal, columns with blanks elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secateur.cli.plain_text import plain_text

_BETWEEN = 3
"""Columns that a ruled table puts between two of its own."""


@dataclass(frozen=True)
class Table:
    """Rows of text under a head.

    `align` has a letter for every column, l or r; what it has none for is numbers, on the right.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str = "l"

    def is_left(self, column: int) -> bool:
        """Whether a column's cells begin at its left edge."""
        return self.align[column : column + 1] == "l"

    @property
    def widths(self) -> list[int]:
        """The width of every column's longest cell."""
        return [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]

    def plain_lines(self) -> list[str]:
        """The table with two blanks between columns, for files and pipes."""
        widths = self.widths
        return [
            "  "
            + "  ".join(
                cell.ljust(width) if self.is_left(place) else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (self.head, *self.rows)
        ]


def plain_lines(lines: Iterable[str | Table]) -> list[str]:
    """All lines of a result, as they are written to files and pipes."""
    found: list[str] = []
    for line in lines:
        found += line.plain_lines() if isinstance(line, Table) else [line]
    return found


def print_on_terminal(lines: Iterable[str | Table]) -> None:
    """Write a result to a terminal: its width is used, and tables have a ruled head."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Ruled
    from rich.text import Text

    console = Console(highlight=False)
    for line in lines:
        if not isinstance(line, Table):
            console.print(Text(plain_text(line)), soft_wrap=True)
            continue
        if sum(line.widths) + _BETWEEN * len(line.widths) >= console.width:
            # Cells would be cut or broken: whole lines, which the terminal wraps, lose nothing.
            for text in line.plain_lines():
                console.print(Text(plain_text(text)), soft_wrap=True)
            continue
        ruled = Ruled(box=box.SIMPLE_HEAD, header_style="bold")
        for place, title in enumerate(line.head):
            ruled.add_column(Text(title), justify="left" if line.is_left(place) else "right")
        for row in line.rows:
            ruled.add_row(*(Text(plain_text(cell)) for cell in row))
        console.print(ruled)
