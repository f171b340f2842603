"""What labelled replies are made of: text of gemmule's test set at random, and questions."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from secateur.checkpoint.hub import gemmule_folder
from secateur.evaluation.robustness.detectors.base import Exchange

Maker = Callable[[random.Random], Exchange]

PROMPT = (
    "Please explain in your own words how the following works, step by step, and give an example "
    "for somebody who has never heard of it: a {} beside a {}."
)


@cache
def passages() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Real text of about 150 words or more: (prose and definitions, code)."""
    prose, code = [], []
    path = gemmule_folder() / "sets" / "test.jsonl"
    for record in map(json.loads, path.read_text("utf-8").splitlines()):
        text = record.get("text") or record["messages"][-1]["content"]
        if record["domain"] in ("prose", "definitions", "code") and len(text.split()) >= 60:
            (code if record["domain"] == "code" else prose).append(text)
    return tuple(prose), tuple(code)


def prose(chance: random.Random, words: int) -> str:
    """About so many words of real prose, from one place after another, none of them twice."""
    found: list[str] = []
    for text in chance.sample(passages()[0], len(passages()[0])):
        parts = text.split(" ")
        at = chance.randrange(max(1, len(parts) - 60))
        found += parts[at : at + 60]
        if len(found) >= words:
            break
    return " ".join(found[:words])


def sentence(chance: random.Random, least: int, most: int) -> str:
    words = prose(chance, chance.randint(least, most)).replace(".", "").split()
    return " ".join(words).capitalize() + chance.choice([". ", ".\n", "! ", ".\n\n"])


def word(chance: random.Random) -> str:
    return next((w for w in prose(chance, 40).split() if w.isalpha() and len(w) > 2), "again")


def ask(chance: random.Random) -> str:
    return PROMPT.format(word(chance), word(chance))


def cut(chance: random.Random, exchange: Exchange) -> Exchange:
    """The same, in every second case cut in its last two thirds, as by a limit of tokens."""
    text = exchange.content
    if chance.random() < 0.5 or len(text) < 300:
        return exchange
    return replace(
        exchange, content=text[: chance.randint(len(text) // 3, len(text))], finish="length"
    )
