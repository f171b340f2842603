"""A value as the card shows it: its words, the fact behind them, and how they follow from it.

`HOW` is the whole list of ways to write a value. None of them computes: a number of a card is a
number of a result file, rounded or with its unit.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from secateur.errors import CardError
from secateur.evaluation.engine_metrics import ENGINE_METRICS
from secateur.evaluation.metrics.registry import all_metrics
from secateur.formats.gguf.naming import label_of
from secateur.formats.gguf.split import part_name
from secateur.release.card.facts import Fact, show_path
from secateur.release.evidence import MAIN_NUMBERS
from secateur.system.sizes import show_bytes, show_figure

MARKS = ("\U000f0000", "\U000f0001", "\U000f0002")
"""Around a shown value while a card is rendered: begin, its number, end. Of a private area of
Unicode; a value that holds one is refused."""

PICTURES = {
    "size-and-divergence": "The size of every file against its divergence from the original",
    "divergence": "The divergence of every file by kind of text, with intervals",
    "experts": "Which experts of each layer were kept, and their scores",
    "tasks-accuracy-difference": "Accuracy in tasks, less the original's, with intervals",
    "loops-degenerate-rate-difference": "Replies with any failure, less the original's",
}
"""{a picture of the report that a card shows: what it is of}."""


@dataclass(frozen=True)
class Shown:
    """Words that follow from a fact in one of the ways of `HOW`."""

    text: str
    fact: Fact
    how: str

    def __str__(self) -> str:
        return self.text

    def __bool__(self) -> bool:
        return bool(self.text)


def show_if(fact: Fact | None, how: str = "text") -> Shown | None:
    """A fact in words, None where there is none."""
    return None if fact is None else show(fact, how)


def show(fact: Fact, how: str = "text") -> Shown:
    """A fact in words. Raises CardError for a value that cannot be written so."""
    return Shown(write(fact, how), fact, how)


def write(fact: Fact, how: str) -> str:
    """The words of a fact. Raises CardError for a value that cannot be written so."""
    try:
        text = HOW[how](fact)
    except (TypeError, ValueError, KeyError):
        raise CardError(
            f"{fact.file}: {show_path(fact.path)} cannot be shown as {how}: it is of another kind "
            "than this version of secateur writes; measure again"
        ) from None
    if any(mark in text for mark in MARKS) or "\n" in text:
        raise CardError(
            f"{fact.file}: {show_path(fact.path)} holds a line break or a private character, which "
            "a card does not show"
        )
    return text


def _words(fact: Fact) -> str:
    """Text within a paragraph or a table: what Markdown or HTML would read otherwise is escaped."""
    return _escaped(fact.value)


def _escaped(value: object) -> str:
    text = " ".join(str(value).split())
    for sign in "\\|<>*`[]":
        text = text.replace(sign, f"\\{sign}")
    return text


def _plain(fact: Fact) -> str:
    """Text within code, where nothing can be escaped."""
    text = str(fact.value)
    if "`" in text:
        raise ValueError(text)
    return text


def _key(fact: Fact) -> str:
    """The last key of a path, within code or not: what would end the code or begin HTML is no name
    that we write."""
    text = str(fact.path[-1])
    if re.search(r"[<>`\x00-\x1f]", text):
        raise ValueError(text)
    return text


def _shell_word(fact: Fact) -> str:
    """The last key of a path as one word of a shell's command."""
    return shlex.quote(_key(fact))


def _title(fact: Fact) -> str:
    """What people call a metric; another measurement's name in words."""
    name = str(fact.value)
    titles = {metric.name: metric.title for metric in (*all_metrics(), *ENGINE_METRICS)}
    return titles.get(name) or _escaped(name.replace("_", " "))


def _asked_title(fact: Fact) -> str:
    """What people call a number of tasks, loops or speed."""
    titles = {name: title for kind in MAIN_NUMBERS.values() for name, title in kind.items()}
    return titles.get(str(fact.value)) or _title(fact)


def _picture(fact: Fact) -> str:
    """What a picture is of, for who does not see it."""
    name = Path(_key(fact)).stem
    return PICTURES.get(name) or name.replace("-", " ")


def _kind_of_tensor(fact: Fact) -> str:
    """A tensor's name without the layer and the word that all weights end in."""
    return re.sub(r"^.*?(?:blk|layers)\.\d+\.|\.weight$", "", _plain(fact))


def _all_parts(fact: Fact) -> str:
    """A pattern of all parts of a split GGUF."""
    part = part_name(_key(fact))
    if part is None:
        raise ValueError(fact.path)
    return f"{part.stem}-*.gguf"


def _scalar(fact: Fact) -> str:
    """A scalar of YAML that is read back as this very value."""
    value = fact.value
    if not isinstance(value, str):
        return json.dumps(value)
    plain = yaml.safe_load(f"- {value}") if value and ": " not in value else None
    return (
        value if plain == [value] and " #" not in value else json.dumps(value, ensure_ascii=False)
    )


_ANYWHERE: Mapping[str, Callable[[Fact], str]] = {
    "text": _words,
    "code": _plain,
    "short name": lambda fact: _words(fact).rpartition("/")[2],
    "key": _key,
    "shell word": _shell_word,
    "base name": lambda fact: _key(fact).rpartition("/")[2],
    "picture": _picture,
    "words of key": lambda fact: _key(fact).replace("_", " "),
    "count": lambda fact: f"{fact.value:,d}",
    "plain count": lambda fact: f"{fact.value:d}",
    "size": lambda fact: show_bytes(fact.value),
    "number": lambda fact: show_figure(fact.value),
    "setting": lambda fact: f"{fact.value:g}",
    "whole percent": lambda fact: f"{100 * fact.value:g} %",
    "bits": lambda fact: f"{fact.value:.2f}",
    "hash": lambda fact: str(fact.value)[:12],
    "title": _title,
    "asked title": _asked_title,
    "kind of tensor": _kind_of_tensor,
    "all parts": _all_parts,
    "gguf label": lambda fact: str(label_of(str(fact.path[-1]))),
    "scalar": _scalar,
}


def _in_cell(how: str) -> Callable[[Fact], str]:
    return lambda fact: _ANYWHERE[how](fact).replace("|", "\\|")


_CELL = ", in a table"
HOW: Mapping[str, Callable[[Fact], str]] = {
    **_ANYWHERE,
    **{f"{how}{_CELL}": _in_cell(how) for how in ("code", "key", "base name", "kind of tensor")},
}
"""{how: the words of a fact}."""


def show_in_cell(shown: Shown) -> Shown:
    """Code as it stands in a table, where `|` ends the cell within code, too."""
    return show(shown.fact, f"{shown.how}{_CELL}") if "|" in shown.text else shown
