"""Sums, shares and differences that a card's own numbers must satisfy."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from secateur.audit.card.card import Card, Line, Row
from secateur.audit.card.quantity import Quantity, quantities
from secateur.audit.finding import Finding, Verdict

_SUM = re.compile(
    r"(?<![\d.,/])(\d[\d,]*)(?![\d.%])([^+=\d|]{0,60})\+\s*(\d[\d,]*)(?![\d.%])([^+=|]{0,40}?)"
    r"=\s*(\d[\d,]*)(?!\d|\.\d|%)"
)
_PRODUCT = re.compile(
    r"(?<![\d.,/])(\d[\d,]*)\s*[A-Za-z]*\s*x\s*(\d[\d,]*)\s*[A-Za-z]*\s*=\s*(\d[\d,]*)(?!\.\d)"
)
_SCORE = re.compile(r"(?<![\d/.])(\d+)/(\d+)(?![\d/])\s*(?:=|\(|\|)?\s*\|?\s*(\d+(?:\.\d+)?)\s?%")
_DIFFERENCE = re.compile(
    r"([-+]\d+(?:\.\d+)?)\s?(?:pp|pts)\b[^.]*?\((\d+(?:\.\d+)?)% vs\.? (\d+(?:\.\d+)?)%\)"
)
_ITEMS = re.compile(r"(?<![\d,.])(\d+)[- ](?:question|item|problem|prompt)s?\b", re.IGNORECASE)
_OUTCOME = re.compile(r"(?<![\d.,])(\d+)\s+(correct|wrong|incorrect)\b", re.IGNORECASE)
_COUNT = re.compile(
    r"(\d+(?:\.\d+)?)\s?(?:pts|pp|points)\s+on\s+([\w ]+?)(?=\s+(?:and|for)\b|[,.])"
)


@dataclass(frozen=True)
class Score:
    """Right answers of all, as a card gives them."""

    right: int
    of: int
    line: int
    label: str

    @property
    def percent(self) -> float:
        return 100 * self.right / self.of


def arithmetic_findings(card: Card) -> Iterator[Finding]:
    """Every sum, product, share and difference that can be computed again."""
    yield from _sums(card)
    yield from _products(card)
    yield from _shares(card)
    yield from _differences(card)
    yield from _totals(card)
    yield from _changes(card)
    yield from _outcomes(card)
    yield from _whole_sets(card)


def scores(card: Card) -> list[Score]:
    """The scores of a card, one for each label and line."""
    found = []
    for line in card.lines:
        for match in _SCORE.finditer(line.text):
            right, of = int(match[1]), int(match[2])
            if of > 0 and right <= of:
                label = line.text[: match.start()].strip(" |:")
                found.append(Score(right, of, line.number, label))
    return found


def _int(text: str) -> int:
    return int(text.replace(",", ""))


def _verdict(right: bool) -> Verdict:
    return "holds" if right else "wrong"


def _sums(card: Card) -> Iterator[Finding]:
    for line in card.lines:
        for found in _SUM.finditer(line.text):
            # "a > b + c = d" in code and paths is no sum of counts: words must stand between.
            if not re.search("[a-z]", found[2] + found[4]) or "(" in found[2] + found[4]:
                continue
            first, second, total = _int(found[1]), _int(found[3]), _int(found[5])
            yield Finding(
                "arithmetic", found[0], _verdict(first + second == total),
                f"{first} + {second} = {first + second}", "the sum", line.number,
            )  # fmt: skip


def _products(card: Card) -> Iterator[Finding]:
    for line in card.lines:
        for found in _PRODUCT.finditer(line.text):
            first, second, product = (_int(found[n]) for n in (1, 2, 3))
            yield Finding(
                "arithmetic", found[0], _verdict(first * second == product),
                f"{first * second:,}", "the product", line.number,
            )  # fmt: skip


def _shares(card: Card) -> Iterator[Finding]:
    for line in card.lines:
        for found in _SCORE.finditer(line.text):
            right, of = int(found[1]), int(found[2])
            if not of or right > of:
                continue
            said = quantities(f"{found[3]}%")[0]
            share = 100 * right / of
            yield Finding(
                "arithmetic", found[0], _verdict(said.fits(share, share)), f"{share:.2f} %",
                f"{right} / {of}", line.number,
            )  # fmt: skip


def _differences(card: Card) -> Iterator[Finding]:
    """ "+1.51 pp (80.30% vs 78.79%)", and points lost that two cells of a table give."""
    for line in card.lines:
        for found in _DIFFERENCE.finditer(line.text):
            must = float(found[2]) - float(found[3])
            yield Finding(
                "arithmetic", f"{found[1]} pp", _verdict(abs(float(found[1]) - must) < 0.011),
                f"{must:+.2f} pp", f"{found[2]} - {found[3]}", line.number,
            )  # fmt: skip
        for found in _COUNT.finditer(line.text):
            lost = [float(found[1]) - abs(d) for d in _lost(card, found[2])]
            if lost:
                least = min(lost, key=abs)
                yield Finding(
                    "arithmetic", found[0], _verdict(abs(least) < 0.51),
                    f"{float(found[1]) - least:g}", "the first and the last cell of its row",
                    line.number,
                )  # fmt: skip


def _lost(card: Card, label: str) -> Iterator[float]:
    """First less last share, of every row of shares with this label."""
    for row in card.rows:
        values = [v for v in row.values if v is not None]
        shares = len(values) > 1 and all(v.unit == "%" for v in values)
        if shares and row.label.lower() == label.strip().lower():
            yield values[0].value - values[-1].value


def _totals(card: Card) -> Iterator[Finding]:
    """A row "Total" under a column of counts."""
    for row in card.rows:
        if row.label.lower() not in ("total", "sum") or not row.cells:
            continue
        above = [r for r in card.block_of(row) if r.line < row.line and r.cells]
        values = [r.values[0] for r in above]
        total = row.values[0]
        counts = [v.value for v in values if v is not None and not v.unit]
        if total is None or len(counts) < 2:
            continue
        yield Finding(
            "arithmetic", f"{row.label}: {total.said}", _verdict(sum(counts) == total.value),
            f"{sum(counts):,.0f}", f"the sum of {len(counts)} rows", row.line,
        )  # fmt: skip


def _changes(card: Card) -> Iterator[Finding]:
    """Two numbers and their change in one row."""
    for row in card.all_rows:
        values = [v for v in row.values if v is not None]
        cells = row.cells
        if len(values) != 3 or len(cells) < 3 or not values[2].signed:
            continue
        first, second, change = values
        if first.unit != second.unit or not first.value:
            continue
        yield _change(row, first, second, change)


def _change(row: Row, first: Quantity, second: Quantity, change: Quantity) -> Finding:
    """Rounded numbers give a range of changes; any of it will do."""
    pairs = [
        (first.value + a * first.half, second.value + b * second.half)
        for a in (-1, 1)
        for b in (-1, 1)
    ]
    if change.unit == "%" and first.unit != "%":
        possible = [100 * (b - a) / a for a, b in pairs if a]
        # "v1 +23.6%": by how much the named one is better, whichever way better is.
        either = [*possible, *(-p for p in possible), *(100 * (a - b) / b for a, b in pairs if b)]
        possible = either if re.search(r"[A-Za-z]", row.cells[2]) else possible
    else:
        possible = [b - a for a, b in pairs]
    right = min(possible) - change.half <= change.value <= max(possible) + change.half
    nearest = min(possible, key=lambda p: abs(p - change.value))
    must = f"{nearest:+.1f}{change.unit or first.unit}"
    return Finding(
        "arithmetic", f"{row.label}: {first.said} to {second.said}, {change.said}",
        _verdict(right), must, "the two numbers in the row", row.line,
    )  # fmt: skip


def _outcomes(card: Card) -> Iterator[Finding]:
    """A list of right and wrong answers against the score that it breaks down."""
    known = {score.right: score for score in scores(card)}
    for block in card.blocks():
        right: list[tuple[int, Line]] = []
        wrong: list[tuple[int, Line]] = []
        for line in block:
            for found in _OUTCOME.finditer(line.text):
                (right if found[2].lower() == "correct" else wrong).append((int(found[1]), line))
        totals = [number for number, _ in right if number in known]
        if not totals or not wrong:
            continue
        score = known[max(totals)]
        stated = sum(number for number, _ in wrong)
        words = " + ".join(str(number) for number, _ in wrong)
        yield Finding(
            "arithmetic", f"{words} wrong", _verdict(stated == score.of - score.right),
            f"{score.of - score.right} wrong", f"{score.right} of {score.of} are right",
            wrong[0][1].number,
        )  # fmt: skip


def _whole_sets(card: Card) -> Iterator[Finding]:
    """One set that is called full with two different numbers of questions."""
    named: defaultdict[str, dict[int, tuple[int, str]]] = defaultdict(dict)
    for line in card.lines:
        for found in _ITEMS.finditer(line.text):
            before = line.text[max(0, found.start() - 40) : found.start()]
            after = line.text[found.end() : found.end() + 40]
            full = re.search(r"\bfull\s+([A-Z][\w-]*(?: [A-Z][\w-]*)*)?\s*$", before)
            name = (full and full[1]) or _leading_name(after)
            if full and name:
                named[name].setdefault(int(found[1]), (line.number, f"full {name}, {found[0]}"))
    for name, sets in named.items():
        if len(sets) < 2:
            continue
        most = max(sets)
        for count, (line_number, said) in sets.items():
            if count != most:
                yield Finding(
                    "arithmetic", said, "wrong", f"{most} questions",
                    f"line {sets[most][0]} calls {most} questions the full {name}", line_number,
                )  # fmt: skip


def _leading_name(text: str) -> str | None:
    found = re.match(r"(?:\s+set)?(?:\s+of)?\s+([A-Z][\w-]*(?: [A-Z][\w-]*)*)", text)
    return found[1] if found else None
