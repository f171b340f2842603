"""Rendering a card: whatever the template prints is a shown value, or words without digits.

`finalize` wraps every shown value in marks, so that the text afterwards knows where each of them
stands; `check.py` then finds a source for every digit, and text of the template has none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2

from secateur.errors import CardError
from secateur.release.card.shown import MARKS, Shown, show_in_cell

TEMPLATE = "card.md.jinja"
DIGIT = re.compile(r"\d")
_BEGIN, _MIDDLE, _END = MARKS
_SPAN = re.compile(f"{_BEGIN}(\\d+){_MIDDLE}[^{_END}]*{_END}")


@dataclass(frozen=True)
class Place:
    """Where a shown value stands in a text: its line and column, both from 1."""

    line: int
    column: int
    shown: Shown


def template_text() -> str:
    """The card's template."""
    return (resources.files(__package__) / TEMPLATE).read_text("utf-8")


def render(template: str, values: Mapping[str, Any]) -> tuple[str, tuple[Place, ...]]:
    """(the text, where its values stand). Raises CardError for a digit that is no shown value's."""
    printed: list[Shown] = []

    def finalize(value: Any) -> str:
        if isinstance(value, Shown):
            printed.append(value)
            return f"{_BEGIN}{len(printed) - 1}{_MIDDLE}{value.text}{_END}"
        if isinstance(value, jinja2.Undefined):
            return str(value)  # StrictUndefined raises, naming it
        text = "" if value is None else str(value)
        if DIGIT.search(_SPAN.sub("", text)):  # a macro gives text in which values are marked
            raise CardError(f"the card's template prints {text!r}, a number without a source")
        return text

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=finalize
    )
    environment.filters["in_cell"] = show_in_cell
    try:
        marked = environment.from_string(template).render(values)
    except jinja2.TemplateError as error:
        raise CardError(f"the card's template cannot be rendered: {error.message}") from None
    return _unmark(re.sub(r"\n{3,}", "\n\n", marked).strip() + "\n", printed)


def _unmark(marked: str, printed: list[Shown]) -> tuple[str, tuple[Place, ...]]:
    lines, places = [], []
    for number, line in enumerate(marked.split("\n"), 1):
        text, at = "", 0
        for span in _SPAN.finditer(line):
            text += line[at : span.start()]
            shown = printed[int(span[1])]
            places.append(Place(number, len(text) + 1, shown))
            text += shown.text
            at = span.end()
        lines.append(text + line[at:])
    return "\n".join(lines), tuple(places)
