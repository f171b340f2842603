"""Instruction following: a short text is asked for under one to three conditions.

An answer is right when it keeps all of them (strict, at the level of the prompt). What it says is
not judged.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.evaluation.tasks.suites.base import Answer, Draft, Item, Score, ask, draw_items
from secateur.evaluation.tasks.suites.checks import ALONE, APART, CHECKS

_FORMS = (
    "Write a short text about {}.",
    "Explain {} to a child.",
    "Describe {} for a travel magazine.",
    "Write a letter to a friend about {}.",
    "Give advice to somebody who is new to {}.",
)
_TOPICS = (
    "bee keeping", "night trains", "the tides", "baking bread", "old maps", "chess openings",
    "a lighthouse", "the history of paper", "volcanoes", "repairing a bicycle", "public libraries",
    "desert gardens", "the first frost", "learning to swim", "a village market", "radio plays",
    "growing tomatoes", "glass blowing", "city pigeons", "mountain huts",
)  # fmt: skip
_TOKENS = 768


@dataclass(frozen=True, slots=True)
class Instructions:
    """Conditions on length, form, case, words, marks, beginning and end."""

    name: str = "instructions"
    title: str = "instruction following, checked by a program: length, form, case, words, JSON"
    version: int = 1

    def items(self, seed: int, count: int) -> tuple[Item, ...]:
        return draw_items(self, seed, count, _draw)

    def score(self, item: Item, answer: Answer) -> Score:
        if not answer.content.strip():
            return Score(0.0, None)
        broken = broken_conditions(item.expected, answer.content)
        kept = len(item.expected) - len(broken)
        read = f"{kept} of {len(item.expected)} kept"
        return Score(float(not broken), read + (f", not {', '.join(broken)}" if broken else ""))


def broken_conditions(expected: Sequence[Mapping[str, Any]], text: str) -> list[str]:
    """The names of the conditions that a text does not keep."""
    return [
        entry["check"]
        for entry in expected
        if not CHECKS[entry["check"]].holds(text, entry["settings"])
    ]


def _draw(rng: random.Random) -> Draft:
    names = _choose(rng, rng.randrange(1, 4))
    settings = [dict(CHECKS[name].draw(rng)) for name in names]
    said = [CHECKS[name].say.format(**given) for name, given in zip(names, settings, strict=True)]
    question = " ".join([rng.choice(_FORMS).format(rng.choice(_TOPICS)), *said])
    expected = [
        {"check": name, "settings": given} for name, given in zip(names, settings, strict=True)
    ]
    kind = f"{len(names)} condition" + "s" * (len(names) > 1)
    return Draft(kind, ask(question), expected, tokens=_TOKENS)


def _choose(rng: random.Random, count: int) -> list[str]:
    """Conditions that can be kept together."""
    order = rng.sample(sorted(CHECKS), len(CHECKS))
    if order[0] in ALONE:
        return order[:1]
    chosen: list[str] = []
    for name in order:
        groups = {CHECKS[other].group for other in chosen}
        apart = any(name in pair and set(pair) & set(chosen) for pair in APART)
        if name not in ALONE and CHECKS[name].group not in groups and not apart:
            chosen.append(name)
        if len(chosen) == count:
            break
    return chosen


SUITES = (Instructions(),)
