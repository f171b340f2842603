"""Replies whose label is known because of how they were made: loops of many kinds, and what only
looks like one. For benchmarks/loops.py and the tests.

Ordinary text is gemmule's test set (documents of prose, code and definitions); all else is composed
at random, the same for the same seed. Every kind has as many replies as are asked for; of those
that go on at length, every second one is cut at a random place as by a limit of tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from failing_texts import LOOPS, OTHERS, thought_loop
from sound_texts import SOUND, WHOLE
from text_material import cut

from secateur.evaluation.robustness.detectors.base import Exchange


@dataclass(frozen=True)
class Labelled:
    """A reply, the kind that it is of, and its label: a detector's group, or "" for sound.

    `also` is another group that it belongs to: a thought that loops until the limit has no answer.
    """

    kind: str
    label: str
    exchange: Exchange
    also: str = ""


def labelled(each: int, seed: int = 0) -> Iterator[Labelled]:
    """`each` replies of every kind."""
    groups = {"loop": LOOPS, **OTHERS, "": SOUND}
    for label, makers in groups.items():
        for make in makers:
            for number in range(each):
                chance = random.Random(f"{seed}/{make.__name__}/{number}")
                exchange = make(chance)
                if not label and make not in WHOLE:
                    exchange = cut(chance, exchange)
                also = "no_answer" if make is thought_loop else ""
                yield Labelled(make.__name__, label, exchange, also)
