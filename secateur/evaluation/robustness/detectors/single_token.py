"""Replies that stay on one piece: "own own own own". Often the end of a model that was cut deep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secateur.evaluation.robustness.detectors.base import (
    Exchange,
    Finding,
    Group,
    Part,
    quote,
    strongest,
)
from secateur.evaluation.robustness.units import split_units


@dataclass(frozen=True)
class SingleTokenRun:
    """`strength` is the length of the longest run of one piece, anywhere in the reply."""

    name: str = "single_token_run"
    title: str = "stays on one word"
    threshold: float = 16
    unit: str = "times one piece"
    group: Group = "loop"

    def find(self, exchange: Exchange) -> Finding | None:
        return strongest(
            {part: self._find(part, text, exchange.copies) for part, text in exchange.texts()}
        )

    def _find(self, part: Part, text: str, asked: int) -> Finding | None:
        units = split_units(text)
        if not len(units):
            return None
        edges = np.flatnonzero(np.diff(units.ids)) + 1
        starts = np.concatenate([[0], edges])
        lengths = np.diff(np.append(starts, len(units)))
        longest = int(np.argmax(lengths))
        count = int(lengths[longest])
        if count < 2 or count <= asked + 1:
            return None
        first = int(starts[longest])
        piece = units.pieces[first]
        shown = quote(piece) if piece.strip() else f"{len(piece)} blanks or ends of line"
        why = f"{shown} {count} times in a row"
        return Finding(self.name, float(count), part, int(units.starts[first]), why)


DETECTORS = (SingleTokenRun(),)
