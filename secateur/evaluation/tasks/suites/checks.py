"""Instructions whose keeping a program can check: what is asked for, and whether an answer has it.

Each is a line of `CHECKS`: its group (of each group an item has at most one, so that no two
contradict each other), how its settings are drawn, how it is said, and the check. The forms are
those of IFEval (Zhou et al. 2023, arXiv 2311.07911); words and checks are our own.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

KEYWORDS = (
    "lantern", "harbour", "copper", "orchard", "signal", "velvet", "granite", "compass", "ladder",
    "thunder", "pepper", "canvas",
)  # fmt: skip
FORBIDDEN = ("very", "and", "the", "is", "of", "with", "that")
ENDINGS = ("That is all.", "More tomorrow.", "Thank you for reading.", "Do you agree?")
KEYS = ("title", "summary", "author", "year", "tags", "rating", "language")

Settings = Mapping[str, Any]
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Check:
    """One kind of instruction; its settings are JSON."""

    group: str
    draw: Callable[[random.Random], Settings]
    say: str
    """With the settings as {fields}."""
    holds: Callable[[str, Settings], bool]


def words(text: str) -> list[str]:
    """The words of a text; letters and digits, joined by hyphens and apostrophes."""
    return _WORD.findall(text)


def count_sentences(text: str) -> int:
    """Stretches with a word that end in a full stop, a question or an exclamation mark."""
    return sum(bool(words(part)) for part in re.split(r"[.!?][\"'\u2019\u201d)]*(?:\s+|$)", text))


def count_paragraphs(text: str) -> int:
    """Stretches with a word between empty lines."""
    return sum(bool(words(part)) for part in re.split(r"\n\s*\n", text))


def count_bullets(text: str) -> int:
    """Lines that begin with "- " or "* "."""
    return len(re.findall(r"^\s*[-*] +\S", text, re.MULTILINE))


def has_word(text: str, word: str) -> bool:
    """Whether a word is in a text, in any case, as a whole word."""
    return word.casefold() in (found.casefold() for found in words(text))


def read_object(text: str) -> dict[str, Any] | None:
    """The JSON object that is the whole answer, in a code fence or not; None for anything else."""
    plain = re.sub(r"^```(?:json)?\s*\n(.*)\n```$", r"\1", text.strip(), flags=re.DOTALL)
    try:
        found = json.loads(plain)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _numbered(text: str, count: int) -> bool:
    found = re.findall(r"^\s*(\d+)[.)] +\S", text, re.MULTILINE)
    return found == [str(number) for number in range(1, count + 1)]


def _nothing(rng: random.Random) -> Settings:
    return {}


CHECKS: Mapping[str, Check] = {
    "words_at_most": Check(
        "length",
        lambda rng: {"count": rng.randrange(20, 120, 5)},
        "Use at most {count} words.",
        lambda text, given: 0 < len(words(text)) <= given["count"],
    ),
    "words_at_least": Check(
        "length",
        lambda rng: {"count": rng.randrange(60, 260, 20)},
        "Use at least {count} words.",
        lambda text, given: len(words(text)) >= given["count"],
    ),
    "sentences": Check(
        "length",
        lambda rng: {"count": rng.randrange(2, 7)},
        "Write exactly {count} sentences.",
        lambda text, given: count_sentences(text) == given["count"],
    ),
    "paragraphs": Check(
        "form",
        lambda rng: {"count": rng.randrange(2, 5)},
        "Write exactly {count} paragraphs with an empty line between them.",
        lambda text, given: count_paragraphs(text) == given["count"],
    ),
    "bullets": Check(
        "form",
        lambda rng: {"count": rng.randrange(3, 7)},
        'Give exactly {count} points, each on a line of its own that begins with "- ".',
        lambda text, given: count_bullets(text) == given["count"],
    ),
    "numbered": Check(
        "form",
        lambda rng: {"count": rng.randrange(3, 7)},
        'Give a list of {count} lines, numbered "1." to "{count}.".',
        lambda text, given: _numbered(text, given["count"]),
    ),
    "uppercase": Check(
        "case",
        _nothing,
        "Write in capital letters only.",
        lambda text, given: bool(words(text)) and text == text.upper(),
    ),
    "lowercase": Check(
        "case",
        _nothing,
        "Write in lower case only, without any capital letter.",
        lambda text, given: bool(words(text)) and text == text.lower(),
    ),
    "keywords": Check(
        "keywords",
        lambda rng: {"words": sorted(rng.sample(KEYWORDS, 2))},
        'Use the words "{words[0]}" and "{words[1]}".',
        lambda text, given: all(has_word(text, word) for word in given["words"]),
    ),
    "forbidden": Check(
        "forbidden",
        lambda rng: {"word": rng.choice(FORBIDDEN)},
        'Do not use the word "{word}".',
        lambda text, given: bool(words(text)) and not has_word(text, given["word"]),
    ),
    "no_commas": Check(
        "marks",
        _nothing,
        "Do not use any comma.",
        lambda text, given: bool(words(text)) and "," not in text,
    ),
    "ending": Check(
        "ending",
        lambda rng: {"text": rng.choice(ENDINGS)},
        'Finish with exactly these words: "{text}"',
        lambda text, given: text.rstrip().casefold().endswith(given["text"].casefold()),
    ),
    "title": Check(
        "beginning",
        _nothing,
        "Begin with a title in double angle brackets, such as <<My title>>.",
        lambda text, given: re.match(r"\s*<<[^<>\n]+>>", text) is not None,
    ),
    "quoted": Check(
        "beginning",
        _nothing,
        "Put the whole answer into double quotation marks.",
        lambda text, given: len(text.strip()) > 2 and text.strip()[0] == text.strip()[-1] == '"',
    ),
    "repeated_word": Check(
        "repetition",
        lambda rng: {"word": rng.choice(KEYWORDS), "count": rng.randrange(2, 5)},
        'Use the word "{word}" exactly {count} times.',
        lambda text, given: (
            [w.casefold() for w in words(text)].count(given["word"]) == given["count"]
        ),
    ),
    "json": Check(
        "json",
        lambda rng: {"keys": sorted(rng.sample(KEYS, 3))},
        'Answer with one JSON object and nothing else; its keys are "{keys[0]}", "{keys[1]}" and '
        '"{keys[2]}".',
        lambda text, given: sorted(read_object(text) or ()) == given["keys"],
    ),
}
ALONE = ("json",)
"""Cannot be asked for together with another."""
APART = (
    ("quoted", "ending"),
    ("forbidden", "ending"),  # an ending may hold the word
    ("sentences", "bullets"),
    ("sentences", "numbered"),  # is "1." a sentence?
    ("title", "paragraphs"),  # is a title a paragraph?
)
"""Pairs of different groups that contradict each other, or that people count differently."""
