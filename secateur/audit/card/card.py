"""A model card as text, made regular: lines, paragraphs, and the rows of its tables.

Cards come as Markdown, as Markdown whose lines were joined, and as text copied off a page, in
which a table is lines of words. So a row is read in three ways: cells between bars, cells after a
separator that stands in the middle of a line, and a line that begins with words and continues with
numbers. Columns get no names here; what a row says is decided by its label and its numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from secateur.audit.card.quantity import Quantity, quantities
from secateur.errors import FormatError

_SEPARATOR = re.compile(r"\|(?:\s*:?-{2,}:?\s*\|)+")
_LONGEST_LINE = 10_000
"""Characters of a line at most: some patterns look back from every place in it."""
_MARKS = re.compile(r"\*\*|`")
_MINUS = str.maketrans({"−": "-", "–": "-", "\u00a0": " ", "‑": "-", "×": "x", "→": ">"})


@dataclass(frozen=True)
class Row:
    """A row of a table: its first cell or words, and the other cells."""

    line: int
    label: str
    cells: tuple[str, ...]
    block: int

    @property
    def text(self) -> str:
        return " | ".join((self.label, *self.cells))

    @property
    def values(self) -> list[Quantity | None]:
        """The first number of every cell."""
        return [next(iter(quantities(cell)), None) for cell in self.cells]


@dataclass(frozen=True)
class Line:
    """A line of the card without marks of emphasis; `block` is the same for a paragraph's lines."""

    number: int
    text: str
    block: int


@dataclass(frozen=True)
class Card:
    """A card, read. `rows` are of bar tables; `plain` are lines read as rows of words."""

    text: str = field(repr=False)
    lines: tuple[Line, ...] = field(repr=False)
    rows: tuple[Row, ...] = field(repr=False)
    plain: tuple[Row, ...] = field(repr=False)

    @property
    def all_rows(self) -> tuple[Row, ...]:
        return (*self.rows, *self.plain)

    def blocks(self) -> Iterator[tuple[Line, ...]]:
        """The paragraphs: lines without an empty one between them."""
        held: list[Line] = []
        for line in self.lines:
            if held and line.block != held[-1].block:
                yield tuple(held)
                held = []
            held.append(line)
        if held:
            yield tuple(held)

    def sentences(self) -> Iterator[Line]:
        """Every sentence with the number of its line; rows of tables are kept whole."""
        for line in self.lines:
            for part in re.split(r"(?<=[.!?:])\s+(?=[A-Z(\"'*])|\s\|\s\||\s[•#]+\s", line.text):
                if part.strip():
                    yield Line(line.number, part.strip(), line.block)

    def block_of(self, row: Row) -> list[Row]:
        """The rows of the same table or paragraph."""
        return [other for other in self.all_rows if other.block == row.block]


def read_card(text: str) -> Card:
    """Read a card's text. Raises FormatError for a line that is too long to be checked."""
    lines: list[Line] = []
    rows: list[Row] = []
    block = 0
    gap = True
    for number, raw in enumerate(text.splitlines(), 1):
        if len(raw) > _LONGEST_LINE:
            raise FormatError(
                f"line {number} of the card has {len(raw):,} characters, {_LONGEST_LINE:,} at most "
                "can be checked: break it, or take it out"
            )
        plain = _MARKS.sub("", raw).translate(_MINUS).strip()
        if not plain:
            gap = True
            continue
        block += gap
        gap = False
        lines.append(Line(number, plain, block))
    tables = 1_000_000
    bars: list[tuple[int, str]] = []
    for line in [*lines, Line(0, "", 0)]:
        if line.text.startswith("|") and not _SEPARATOR.search(line.text, 1):
            bars.append((line.number, line.text))
            continue
        if _SEPARATOR.fullmatch(line.text):
            continue
        if bars:
            tables += 1
            rows += [_row(number, _cells(text), tables) for number, text in bars]
            bars = []
        for found in _joined(line.text):
            tables += 1
            rows += [_row(line.number, cells, tables) for cells in found]
    table_lines = {row.line for row in rows}
    words = [_words(line) for line in lines if line.number not in table_lines]
    return Card(
        text.translate(_MINUS),
        tuple(lines),
        tuple(row for row in rows if row.label or row.cells),
        tuple(row for row in words if row is not None),
    )


def _cells(text: str) -> list[str]:
    return [cell.strip() for cell in text.strip().strip("|").split("|")]


def _row(number: int, cells: list[str], block: int) -> Row:
    return Row(number, cells[0], tuple(cells[1:]), block)


def _joined(text: str) -> Iterator[list[list[str]]]:
    """The tables of a line in which their line breaks were lost, header first."""
    for match in _SEPARATOR.finditer(text):
        width = match[0].count("|") - 1
        before = text[: match.start()].rstrip()
        if not before.endswith("|"):
            continue
        header = [cell.strip() for cell in before.rstrip("|").split("|")[-width:]]
        table = [header]
        rest = text[match.end() :]
        row = re.compile(r"\s*\|" + r"([^|]*)\|" * width)
        at = 0
        while found := row.match(rest, at):
            table.append([cell.strip() for cell in found.groups()])
            at = found.end()
        yield table


def _words(line: Line) -> Row | None:
    """A line of words and numbers as a row; None for one without numbers after its words."""
    found = quantities(line.text)
    if not found or found[0].start == 0:
        return None
    label = line.text[: found[0].start].strip(" :|(~=")
    if not label:
        return None
    starts = [quantity.start for quantity in found] + [len(line.text)]
    cells = tuple(line.text[a:b].strip(" |") for a, b in zip(starts, starts[1:], strict=False))
    return Row(line.number, label, cells, line.block)
