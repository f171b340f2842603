"""Replies that say the prompt again instead of answering it.

What counts is the prompt's beginning, where the instruction stands: a corrected text or quoted
code is a copy too, but not of "Correct this text:".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secateur.evaluation.robustness.detectors.base import Exchange, Finding, Group, quote
from secateur.evaluation.robustness.units import split_units

_SEED = 6
"""Pieces of the prompt's beginning by which a copy is found."""
_LEAST = 12
"""Pieces that a copy has at least: short questions are rightly taken up in their answers."""
_WHOLE = 60
"""Pieces from which on a copy is whole, however long the prompt is."""


@dataclass(frozen=True)
class PromptEcho:
    """`strength` is the share of the prompt (of its first pieces) that the reply copies."""

    name: str = "prompt_echo"
    title: str = "repeats the prompt"
    threshold: float = 0.8
    unit: str = f"of the prompt's first {_WHOLE} pieces"
    group: Group = "echo"

    def find(self, exchange: Exchange) -> Finding | None:
        if exchange.copies > 1:
            return None
        asked = split_units(exchange.prompt).pieces[:_WHOLE]
        units = split_units(exchange.content)
        if len(asked) < _LEAST or len(units) < _LEAST:
            return None
        copied, first = max(
            ((_common(asked, units.pieces[at:]), -at) for at in _places(asked, units.pieces)),
            default=(0, 0),
        )
        if copied < _LEAST:
            return None
        begins = int(units.starts[-first])
        why = f"copies {copied} pieces of the prompt from {quote(exchange.content[begins:], 40)} on"
        return Finding(self.name, copied / len(asked), "content", begins, why)


def _places(asked: tuple[str, ...], pieces: tuple[str, ...]) -> list[int]:
    """Where the prompt's first pieces stand in the reply."""
    firsts = np.flatnonzero(np.array(pieces, object) == asked[0])
    return [int(at) for at in firsts if pieces[at : at + _SEED] == asked[:_SEED]]


def _common(asked: tuple[str, ...], pieces: tuple[str, ...]) -> int:
    """Pieces at the beginning that are the same."""
    for count, (one, other) in enumerate(zip(asked, pieces, strict=False)):
        if one != other:
            return count
    return min(len(asked), len(pieces))


DETECTORS = (PromptEcho(),)
