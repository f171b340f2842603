"""Whether every number of a card stands in a result file: on the finished text and its ledger.

The ledger says of each shown value with a digit where it stands in the card, in which file and at
which path it is found, and how it is written. The check trusts neither: each value is read and
written again. A digit that no value covers is a number without a source. The author's own words
are the exception, in a section that says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secateur.errors import CardError
from secateur.release.card.facts import Path_, Results, show_path
from secateur.release.card.render import DIGIT, Place
from secateur.release.card.shown import HOW, write

AUTHOR = (
    "<!-- the author's own words: begin -->",
    "## From the author",
    "",
    "*The words and numbers of this section are the author's own. They do not come from results.*",
    "",
)
"""The lines that begin the author's section, as they have to stand."""
AUTHOR_END = "<!-- the author's own words: end -->"


@dataclass(frozen=True)
class Source:
    """A line of the ledger: `text` at `line` and `column` of the card is a value of `file`."""

    line: int
    column: int
    text: str
    file: str
    path: Path_
    how: str


def sources_of(places: Iterable[Place]) -> tuple[Source, ...]:
    """The ledger of what was rendered: all values that hold a digit."""
    return tuple(
        Source(
            place.line,
            place.column,
            place.shown.text,
            place.shown.fact.file,
            place.shown.fact.path,
            place.shown.how,
        )
        for place in places
        if DIGIT.search(place.shown.text)
    )


def check_numbers(text: str, ledger: Sequence[Source], results: Results) -> None:
    """Raise CardError unless every digit of a card belongs to a value that its results hold."""
    lines = text.split("\n")
    covered: defaultdict[int, set[int]] = defaultdict(set)
    for source in ledger:
        _check_source(source, lines, results)
        covered[source.line] |= set(range(source.column, source.column + len(source.text)))
    own = _author_lines(lines)
    for number, line in enumerate(lines, 1):
        if number in own:
            continue
        for digit in DIGIT.finditer(line):
            if digit.start() + 1 not in covered[number]:
                raise CardError(
                    f"line {number} of the card has a number without a source: "
                    f"{_word_at(line, digit.start())!r}: a number has to stand in a result file; "
                    "words of your own go into a file that is named with --about"
                )


def author_section(words: str) -> str:
    """The author's words as a section. Raises CardError when they hold the lines around it."""
    if AUTHOR[0] in words or AUTHOR_END in words:
        raise CardError("the author's words hold the line that ends their section: remove it")
    return "\n".join((*AUTHOR, words.strip(), "", AUTHOR_END))


def _check_source(source: Source, lines: list[str], results: Results) -> None:
    start = source.column - 1
    line = lines[source.line - 1] if 0 < source.line <= len(lines) else ""
    where = f"{source.file}: {show_path(source.path)}"
    if start < 0 or line[start : start + len(source.text)] != source.text:
        raise CardError(
            f"line {source.line} of the card does not have {source.text!r} of {where} at its "
            "place: the card was changed by hand; write it anew"
        )
    fact = results.at(source.file, source.path)
    if fact is None:
        raise CardError(f"line {source.line} of the card names {where}, which is not there")
    if source.how not in HOW or (now := write(fact, source.how)) != source.text:
        raise CardError(
            f"line {source.line} of the card says {source.text!r}, and {where} is "
            f"{now if source.how in HOW else 'shown in an unknown way'!r}: write the card anew"
        )


def _author_lines(lines: list[str]) -> range:
    """The lines of the author's section; none without one that begins and ends as it has to."""
    starts = [n for n, line in enumerate(lines, 1) if line == AUTHOR[0]]
    ends = [n for n, line in enumerate(lines, 1) if line == AUTHOR_END]
    if not (len(starts) == len(ends) == 1):
        return range(0)
    first, last = starts[0], ends[0]
    if tuple(lines[first - 1 : first - 1 + len(AUTHOR)]) != AUTHOR:
        return range(0)
    return range(first + len(AUTHOR), last)


def _word_at(line: str, at: int) -> str:
    start = line.rfind(" ", 0, at) + 1
    end = line.find(" ", at)
    return line[start : end if end >= 0 else len(line)]
