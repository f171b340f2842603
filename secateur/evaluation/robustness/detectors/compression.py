"""Replies that compress far better than any text does: whatever repeats, in whatever form.

Windows of 2,000 bytes through zlib. Prose comes to a half, code and tables to a quarter, a short
loop to a thirtieth. Windows, because a whole reply compresses the better the longer it is.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from secateur.evaluation.robustness.detectors.base import (
    Exchange,
    Finding,
    Group,
    Part,
    strongest,
)

_WINDOW = 2000
_LEAST = 600
"""Bytes below which zlib's own overhead decides."""


@dataclass(frozen=True)
class Compression:
    """`strength` is bytes over compressed bytes, of the window that compresses best."""

    name: str = "compression"
    title: str = "compresses like a loop"
    threshold: float = 7.0
    unit: str = "bytes per compressed byte"
    group: Group = "loop"

    def find(self, exchange: Exchange) -> Finding | None:
        if exchange.copies > 1:
            return None  # it does as it was told, or `repeated_suffix` sees that it went on
        return strongest({part: self._find(part, text) for part, text in exchange.texts()})

    def _find(self, part: Part, text: str) -> Finding | None:
        content = text.encode("utf-8", "replace")
        if len(content) < _LEAST:
            return None
        last = max(0, len(content) - _WINDOW)
        starts = [*range(0, last, _WINDOW // 2), last]
        ratios = [_ratio(content[start : start + _WINDOW]) for start in starts]
        strength = max(ratios)
        first = starts[ratios.index(strength)]
        begins = len(content[:first].decode("utf-8", "ignore"))
        size = min(_WINDOW, len(content))
        why = f"{size:,} bytes compress to {size / strength:.0f}"
        return Finding(self.name, strength, part, begins, why)


def _ratio(content: bytes) -> float:
    return len(content) / len(zlib.compress(content, 9))


DETECTORS = (Compression(),)
