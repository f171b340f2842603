"""What the size of a sample allows to say: comparisons of scores, and rates of nothing.

Two models that answered the same n questions and differ by d right answers are compared at best
when one is right wherever the other is, and on d more: the exact paired test (McNemar) then has
p = 2 * 0.5 ** d. No list of answers can make it smaller, so what fails there fails whatever the
answers were. Fisher's exact test is the unpaired one; 5 % is the level of both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from secateur.audit.card.arithmetic import Score, scores
from secateur.audit.card.card import Card, Line, Row
from secateur.audit.finding import Finding

LEVEL = 0.05

_BETTER = re.compile(
    r"\b(?:beats?|outperforms?|surpass\w*|better than|exceeds?|superior|wins?|improves?)\b",
    re.IGNORECASE,
)
_COSTS = re.compile(r"\b(?:costs?|loses?|drops?|trades?|gains?)\b", re.IGNORECASE)
_POINTS = re.compile(r"(\d+(?:\.\d+)?)\s?(?:pp\b|percentage points|pts\b)")
_VERSUS = re.compile(r"(\d+(?:\.\d+)?)% vs\.? (\d+(?:\.\d+)?)%")
_SAMPLE = re.compile(
    r"(?<![\d.,])(\d+) (?:samples?|questions?|items?|examples?)(?:/| per )task|\bn ?= ?(\d+)\b",
    re.IGNORECASE,
)
_ZERO = re.compile(r"\bzero (\w+)(?:, zero (\w+))?[^.]*", re.IGNORECASE)
_SAME = re.compile(
    r"\b(?:fully preserved|(?<!-)lossless|indistinguishable|no (?:quality )?loss)\b", re.IGNORECASE
)

_SET = re.compile(r"[A-Z]{2,}\w*(?: [A-Z]\w+)*")
"""The name of a benchmark, as it is written at the head of a row of scores."""
_CHOOSING = r"\b(?:analysis|calibrat\w+|drop map|pruning decision)\b"


@dataclass(frozen=True)
class _Table:
    """A table of shares: its header, its rows of shares, and how many stand behind each."""

    header: Row
    rows: tuple[Row, ...]
    n: int | None


def paired_at_best(difference: int) -> float:
    """The smallest p that an exact paired test can give for so many more right answers."""
    from secateur.evaluation.tasks.paired import mcnemar

    return mcnemar(0, difference)


def fisher(first: int, second: int, n_first: int, n_second: int) -> float:
    """Two-sided p of Fisher's exact test for first of n_first against second of n_second."""
    import numpy as np
    from scipy.stats import fisher_exact

    table = np.array([[first, n_first - first], [second, n_second - second]])
    return float(fisher_exact(table).pvalue)


def upper_bound(n: int) -> float:
    """The end of the 95 % Wilson interval of a rate that was 0 of n."""
    from secateur.evaluation.tasks.paired import wilson

    high = wilson(0, n).high
    assert high is not None
    return high


def sample_findings(card: Card) -> Iterator[Finding]:
    """Every comparison that the sample cannot carry, or can."""
    known = scores(card)
    yield from _claims(card, known)
    for table in _tables(card):
        yield from _table(table)
    for header, rows, at in _rates(card):
        yield from _zero_rates(card, header, rows, at)
        yield from _rate_claims(card, rows, at)
    yield from _sameness(card)
    yield from _chosen_on(card)


def _claims(card: Card, known: list[Score]) -> Iterator[Finding]:
    """Sentences that rank models by scores that the card gives as right of all."""
    rows = {score.line for score in known}
    for line in card.sentences():
        better, costs = _BETTER.search(line.text), _COSTS.search(line.text)
        if line.number in rows or not (better or costs):
            continue
        pair = _scores_meant(line, known)
        if pair is None:
            continue
        high, low = pair
        difference = high.right - low.right
        best = paired_at_best(difference)
        unpaired = fisher(high.right, low.right, high.of, low.of)
        reason = (
            f"{high.right} and {low.right} of {high.of} differ by {difference} answers: at best "
            f"paired p = {best:.2g}, Fisher p = {unpaired:.2f}"
        )
        verdict = "unproven" if best > LEVEL else "unchecked"
        must = "no difference shown" if best > LEVEL else "the answers, to compare them in pairs"
        yield Finding("sample size", line.text, verdict, must, reason, line.number)  # type: ignore[arg-type]


def _scores_meant(line: Line, known: list[Score]) -> tuple[Score, Score] | None:
    """The two scores that a sentence compares, the higher first."""
    pairs = [
        (a, b) if a.right > b.right else (b, a)
        for a, b in combinations(known, 2)
        if a.of == b.of and a.right != b.right
    ]
    if found := _VERSUS.search(line.text):
        first, second = sorted((float(found[1]), float(found[2])), reverse=True)
        return next(
            (p for p in pairs if _near(p[0].percent, first) and _near(p[1].percent, second)), None
        )
    if found := _POINTS.search(line.text):
        points = float(found[1])
        return next((p for p in pairs if _near(p[0].percent - p[1].percent, points)), None)
    return None


def _near(value: float, said: float) -> bool:
    return abs(value - said) < 0.011


def _tables(card: Card) -> Iterator[_Table]:
    """Tables whose cells are all shares, with the sample that a line right above them names."""
    seen = set()
    for header in card.rows:
        if header.block in seen:
            continue
        seen.add(header.block)
        rows = tuple(
            row
            for row in card.block_of(header)
            if row is not header
            and len([v for v in row.values if v is not None]) > 1
            and all(v is not None and v.unit == "%" for v in row.values)
        )
        if len(rows) < 2:
            continue
        above = [line for line in card.lines if line.number <= header.line][-5:]
        names = (_SAMPLE.search(line.text) for line in reversed(above))
        found = next((match for match in names if match), None)
        n = int(found[1] or found[2]) if found else None
        yield _Table(header, rows, n)


def _table(table: _Table) -> Iterator[Finding]:
    """Which of a table's rows are distinguished by their first column."""
    stated = " | ".join(filter(None, (table.header.label, *table.header.cells)))
    line = table.header.line
    if table.n is None:
        yield Finding(
            "sample size", stated, "unchecked", "", "no sample size is given for these scores", line
        )
        return
    marked = [row for row in table.rows if any("*" in cell for cell in row.cells)]
    apart: list[str] = []
    alike: list[str] = []
    for row in table.rows:
        if row in marked:
            continue
        shares = [v.value for v in row.values if v is not None]
        first, *others = (round(share * table.n / 100) for share in shares)
        for at, right in enumerate(others, 1):
            p = fisher(first, right, table.n, table.n)
            words = f"{row.label} {shares[0]:g} and {shares[at]:g} % (p = {p:.2g})"
            (apart if p <= LEVEL else alike).append(words)
    left = f"; left out as marked: {', '.join(row.label for row in marked)}" if marked else ""
    if alike:
        yield Finding(
            "sample size", stated, "unproven",
            f"only {', '.join(apart)} differ" if apart else "no row differs from its first column",
            f"n = {table.n}, Fisher, 5 %; not distinguishable: {', '.join(alike)}{left}", line,
        )  # fmt: skip
    else:
        yield Finding(
            "sample size", stated, "holds", "", f"n = {table.n}: {', '.join(apart)}", line
        )


def _rates(card: Card) -> Iterator[tuple[Row, list[Row], int]]:
    """Tables with a column N and columns of rates: (header, rows, the column of N)."""
    seen = set()
    for header in card.rows:
        if header.block in seen:
            continue
        seen.add(header.block)
        at = next((i for i, cell in enumerate(header.cells) if cell.lower() == "n"), None)
        if at is not None:
            rows = [row for row in card.block_of(header) if row is not header]
            yield header, [r for r in rows if len(r.values) > at and r.values[at]], at


def _n(row: Row, at: int) -> int:
    value = row.values[at]
    return int(value.value) if value is not None else 0


def _zero_rates(card: Card, header: Row, rows: list[Row], at: int) -> Iterator[Finding]:
    """ "Zero looping across coding and math": how often it may still happen."""
    for line in card.sentences():
        found = _ZERO.search(line.text)
        if not found or line.number in {row.line for row in rows}:
            continue
        words = line.text.lower()
        named = [row for row in rows if _first_word(row) in words]
        what = [
            cell
            for cell in header.cells
            if any(_stem(w) in cell.lower() for w in found.groups() if w)
        ]
        n = sum(_n(row, at) for row in named)
        if named and what and n:
            least = min(_n(row, at) for row in named)
            yield Finding(
                "sample size", found[0], "unproven", f"up to {100 * upper_bound(n):.0f} %",
                f"0 of {n} runs, 95 % Wilson interval; of a row's {least}: up to "
                f"{100 * upper_bound(least):.0f} %",
                line.number,
            )  # fmt: skip


def _first_word(row: Row) -> str:
    return row.label.lower().split()[0] if row.label else "\0"


def _stem(word: str) -> str:
    return re.sub(r"(?:ing|s|d|ed)$", "", word.lower())


def _rate_claims(card: Card, rows: list[Row], at: int) -> Iterator[Finding]:
    """ "outperforms (0% vs 50% loop rate)": the row with these rates, and its few runs."""
    for line in card.sentences():
        found = _VERSUS.search(line.text)
        if not found or not _BETTER.search(line.text):
            continue
        wanted = {float(found[1]), float(found[2])}
        for row in rows:
            shares = {v.value for v in row.values if v is not None and v.unit == "%"}
            if not wanted <= shares:
                continue
            n = _n(row, at)
            counts = sorted(round(n * share / 100) for share in wanted)
            p = fisher(counts[0], counts[-1], n, n)
            best = paired_at_best(counts[-1] - counts[0])
            if best > LEVEL:
                yield Finding(
                    "sample size", line.text, "unproven", "no difference shown",
                    f"{row.label}: {counts[-1]} and {counts[0]} of {n} runs, at best paired p = "
                    f"{best:.2g}, Fisher p = {p:.2g}",
                    line.number,
                )  # fmt: skip


def _sameness(card: Card) -> Iterator[Finding]:
    """ "fully preserved": no sample shows equality, a small one shows nothing."""
    runs = [(header, sum(_n(row, at) for row in rows)) for header, rows, at in _rates(card) if rows]
    for line in card.sentences():
        found = _SAME.search(line.text)
        if not found:
            continue
        if runs:
            n = runs[0][1]
            yield Finding(
                "sample size", line.text, "unproven", "",
                f"{n} runs: what happened in none of them may happen in up to "
                f"{100 * upper_bound(n):.0f} %",
                line.number,
            )  # fmt: skip
        else:
            yield Finding(
                "sample size", line.text, "unchecked", "", "no sample is given", line.number
            )


def _chosen_on(card: Card) -> Iterator[Finding]:
    """Scores on the very set by which experts were chosen: one finding for each set."""
    named: set[str] = set()
    for row in card.all_rows:
        found = _SET.match(row.label)
        if found and any(v is not None and v.unit == "%" for v in row.values):
            named.add(found[0])
    stated: set[str] = set()
    for line in card.sentences():
        for name in sorted(named - stated):
            pattern = rf"{_CHOOSING}[^.]*\b(?:on|over|for|across|using)\b[^.]*\b{re.escape(name)}\b"
            if re.search(pattern, line.text, re.IGNORECASE) and not _VERSUS.search(line.text):
                stated.add(name)
                yield Finding(
                    "sample size", line.text, "unproven", "a score on other questions",
                    f"the card scores its models on {name} too, by which they were chosen",
                    line.number,
                )  # fmt: skip
