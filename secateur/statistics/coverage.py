"""Which experts saw too few tokens to be judged, and how many more tokens would do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secateur.statistics.statistics import Statistics

LEAST = 32
"""Tokens below which an expert's mean is called uncertain: its standard error is then about a
sixth of the spread of single tokens."""


@dataclass(frozen=True)
class UnderSampled:
    """An expert that saw `tokens` tokens, fewer than wanted."""

    layer: int
    expert: int
    tokens: int


@dataclass(frozen=True)
class Coverage:
    """How well a corpus covers the experts.

    `tokens` were run, `wanted` is the least number per expert, `more` estimates how many further
    tokens of the same mix would give it to every under-sampled expert that saw any at all; `unseen`
    counts those that saw none, for which nothing can be estimated.
    """

    tokens: int
    wanted: int
    experts: int
    under_sampled: tuple[UnderSampled, ...]
    unseen: int
    more: int

    def sentences(self) -> list[str]:
        """The report for a person."""
        if not self.under_sampled:
            return [
                f"all {self.experts} experts saw at least {self.wanted} of {self.tokens} tokens"
            ]
        first = ", ".join(
            f"layer {s.layer} expert {s.expert} ({s.tokens})" for s in self.under_sampled[:8]
        )
        lines = [
            f"{len(self.under_sampled)} of {self.experts} experts saw fewer than {self.wanted} of "
            f"{self.tokens} tokens: {first}{', ...' if len(self.under_sampled) > 8 else ''}"
        ]
        if self.more:
            lines.append(
                f"about {self.more} more tokens of this mix would do for those that saw any"
            )
        if self.unseen:
            lines.append(f"{self.unseen} saw none at all: they need text of another kind")
        return lines


def coverage(statistics: Statistics, wanted: int = LEAST) -> Coverage:
    """Judge the coverage of a calibration run; `wanted` is in tokens per expert."""
    total = sum(statistics.tokens.values())
    under_sampled = []
    for layer in statistics.layers:
        seen = statistics.count(layer).sum(0)
        under_sampled += [
            UnderSampled(layer, int(expert), int(seen[expert]))
            for expert in np.flatnonzero(seen < wanted)
        ]
    some = [entry.tokens for entry in under_sampled if entry.tokens]
    more = max((-(-total * wanted // tokens) - total for tokens in some), default=0)
    return Coverage(
        tokens=total,
        wanted=wanted,
        experts=len(statistics.layers) * statistics.experts,
        under_sampled=tuple(sorted(under_sampled, key=lambda s: (s.tokens, s.layer, s.expert))),
        unseen=sum(entry.tokens == 0 for entry in under_sampled),
        more=more,
    )
