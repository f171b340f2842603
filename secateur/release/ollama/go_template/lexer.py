"""A template's text to pieces: text between actions, and the words of every action."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from secateur.release.ollama.go_template.nodes import GoTemplateError

_SPACE = " \t\r\n"
_WORD = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    |(?P<number>[+-]?\d+(?![\w.]))
    |(?P<variable>\$\w*(?:\.[A-Za-z_]\w*)*)
    |(?P<field>(?:\.[A-Za-z_]\w*)+|\.)
    |(?P<name>[A-Za-z_]\w*)
    |(?P<sign>:=|[=|(),])""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Word:
    """One word of an action: its kind (string, number, variable, field, name, sign) and text.

    `apart` says that a space stands before it: `(x).A` is a field of x, `(x) .A` is not.
    """

    kind: str
    text: str
    apart: bool


@dataclass(frozen=True)
class Piece:
    """Text, or the words of an action (None for text); `line` is where it begins."""

    text: str
    words: tuple[Word, ...] | None
    line: int


def split_template(text: str) -> Iterator[Piece]:
    """The pieces of a template, its trim marks (`{{-`, `-}}`) obeyed and comments left out.

    Raises GoTemplateError for an action that does not end or holds what Go does not know.
    """
    at, trim = 0, False
    while True:
        start = text.find("{{", at)
        plain = text[at:] if start < 0 else text[at:start]
        opens_trimmed = start >= 0 and re.match(r"\{\{-[ \t\r\n]", text[start:]) is not None
        if trim:
            plain = plain.lstrip(_SPACE)
        if opens_trimmed:
            plain = plain.rstrip(_SPACE)
        if plain:
            yield Piece(plain, None, text.count("\n", 0, at) + 1)
        if start < 0:
            return
        line = text.count("\n", 0, start) + 1
        inside = start + (3 if opens_trimmed else 2)
        end, trim, words = _read_action(text, inside, line)
        if words:
            yield Piece("", words, line)
        at = end


def _read_action(text: str, at: int, line: int) -> tuple[int, bool, tuple[Word, ...]]:
    """(where the text goes on, whether it is trimmed there, the words) of an action."""
    comment = re.compile(r"[ \t\r\n]?/\*.*?\*/", re.DOTALL).match(text, at)
    if comment:
        at = comment.end()
    words: list[Word] = []
    apart = True
    while True:
        if closing := re.compile(r"[ \t\r\n]+-\}\}").match(text, at):
            return closing.end(), True, tuple(words)
        if text.startswith("}}", at):
            return at + 2, False, tuple(words)
        found = _WORD.match(text, at)
        if found is None or comment and found.lastgroup != "space":
            raise GoTemplateError(
                f"line {line} of the template: {text[at : at + 20]!r} inside of an action is not "
                "in the part of Go's templates that is read here"
            )
        at = found.end()
        kind = str(found.lastgroup)
        if kind != "space":
            words.append(Word(kind, found[0], apart))
        apart = kind == "space"


def string_of(word: Word) -> str:
    """The value of a string literal, quoted or raw."""
    if word.text.startswith("`"):
        return word.text[1:-1]
    try:
        return str(json.loads(word.text))
    except ValueError:
        raise GoTemplateError(
            f"the string {word.text} has an escape that is not read here"
        ) from None
