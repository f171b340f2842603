"""Text in pieces of about a token each, without any model's tokenizer.

Detectors see what a server answered, of whatever model: text. Pieces are words, marks and single
characters of scripts that put no space between words. A run of one mark or of blanks is one piece
per 16, because tokenizers have such runs (rules, indents) as one token; a word of more than 32
letters, which few languages have, is taken letter by letter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters."""
_PIECE = re.compile(
    rf"[{_SPACELESS}]|(?:(?![{_SPACELESS}])[^\W_])+|([^\w\s]|_)\1{{0,15}}|([^\S\n])\2{{3,15}}|\n{{1,16}}"
)
_LONGEST_WORD = 32


@dataclass(frozen=True)
class Units:
    """The n pieces of a text, where each begins, and a number per piece, equal for equal ones."""

    pieces: tuple[str, ...]
    starts: NDArray[np.intp]
    """[n]: characters."""
    ids: NDArray[np.intp]
    """[n]: in the order of first appearance."""

    def __len__(self) -> int:
        return len(self.pieces)


@lru_cache(maxsize=8)  # every detector splits the same texts
def split_units(text: str) -> Units:
    """A text in pieces. Single blanks are between pieces and in none."""
    pieces: list[str] = []
    starts: list[int] = []
    for match in _PIECE.finditer(text):
        piece, start = match.group(), match.start()
        if len(piece) > _LONGEST_WORD:
            pieces.extend(piece)
            starts.extend(range(start, start + len(piece)))
        else:
            pieces.append(piece)
            starts.append(start)
    return _number(pieces, starts)


def words_of(units: Units) -> Units:
    """The same without marks and blanks: words, numbers, and characters of spaceless scripts."""
    at = [place for place, piece in enumerate(units.pieces) if piece[0].isalnum()]
    return _number([units.pieces[place] for place in at], units.starts[at])


def hide_numbers(units: Units) -> Units:
    """The same with one piece for all numbers: what repeats but for a counter repeats."""
    hidden = ["0" if piece.isdigit() else piece for piece in units.pieces]
    return _number(hidden, units.starts)


def _number(pieces: list[str], starts: list[int] | NDArray[np.intp]) -> Units:
    known: dict[str, int] = {}
    ids = [known.setdefault(piece, len(known)) for piece in pieces]
    return Units(tuple(pieces), np.asarray(starts, np.intp), np.asarray(ids, np.intp))
