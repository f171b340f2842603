"""Replies that leave the language of the prompt for one in another script, or for a soup of them.

Seen by the script of letters alone (Latin, Cyrillic, Chinese and Japanese together, ...), which
needs no model of a language and errs seldom: a change from English to German is not seen. Code
between fences does not count, and neither does Latin in an answer to a prompt that has some: code,
names and formulas are Latin everywhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np

from secateur.evaluation.robustness.detectors.base import (
    Exchange,
    Finding,
    Group,
    Part,
    quote,
    strongest,
)

_WINDOW = 80
"""Letters."""
_PART_OF_PROMPT = 0.1
"""A script with this share of a prompt's letters is one of its own."""
_FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_JOINED = {"CJK": "CHINESE", "HIRAGANA": "CHINESE", "KATAKANA": "CHINESE", "IDEOGRAPHIC": "CHINESE"}
"""Scripts that are written together."""
_ASKED = re.compile(
    r"\b(translat|languages?\b|arabic|armenian|bengali|bulgarian|chinese|georgian|greek|hebrew|hindi|"
    r"japanese|kanji|korean|mandarin|persian|russian|serbian|tamil|thai|ukrainian|urdu|unicode)",
    re.IGNORECASE,
)
"""A prompt that speaks of languages may well be answered in one."""


@dataclass(frozen=True)
class LanguageDrift:
    """`strength` is the share of letters, in a window of the reply, of scripts that are foreign to
    the prompt."""

    name: str = "language_drift"
    title: str = "leaves the prompt's script"
    threshold: float = 0.5
    unit: str = f"of {_WINDOW} letters"
    group: Group = "drift"

    def find(self, exchange: Exchange) -> Finding | None:
        if _ASKED.search(exchange.prompt):
            return None
        own = _own_scripts(exchange.prompt)
        return strongest({part: self._find(part, text, own) for part, text in exchange.texts()})

    def _find(self, part: Part, text: str, own: frozenset[str]) -> Finding | None:
        letters = _letters(text)
        if not own or len(letters) < _WINDOW:
            return None
        foreign = np.array([script not in own for _, script in letters], float)
        shares = np.convolve(foreign, np.ones(_WINDOW), "valid") / _WINDOW
        strength = float(shares.max())
        if strength == 0:
            return None
        first = int(np.argmax(shares >= min(strength, self.threshold)))
        first += int(np.argmax(foreign[first:]))
        window = letters[first : first + _WINDOW]
        named = Counter(script for _, script in window if script not in own).most_common(3)
        begins = letters[first][0]
        scripts = ", ".join(script.lower() for script, _ in named)
        why = f"{strength:.0%} of {_WINDOW} letters are {scripts}: {quote(text[begins:], 40)}"
        return Finding(self.name, strength, part, begins, why)


def _own_scripts(prompt: str) -> frozenset[str]:
    """The scripts of a prompt, Latin with them unless it has none to speak of."""
    counts = Counter(script for _, script in _letters(prompt))
    total = sum(counts.values())
    return frozenset(script for script, count in counts.items() if count >= _PART_OF_PROMPT * total)


def _letters(text: str) -> list[tuple[int, str]]:
    """(place, script) of the letters outside of fenced code."""
    plain = _FENCED.sub(lambda match: " " * len(match.group()), text)
    return [(at, script) for at, letter in enumerate(plain) if (script := _script(letter))]


@cache
def _script(letter: str) -> str | None:
    """The script of a letter by the first word of its Unicode name; None for what is no letter."""
    if not letter.isalpha():
        return None
    word = unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0]
    # Letters of formulas are of no language.
    return None if word in ("MATHEMATICAL", "MODIFIER", "DOUBLE") else _JOINED.get(word, word)


DETECTORS = (LanguageDrift(),)
