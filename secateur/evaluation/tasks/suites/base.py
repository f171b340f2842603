"""What a suite is: items made from a seed, and a check of what was answered.

A suite is one file in this folder with a tuple `SUITES` (docs/extending.md has a worked example);
`registry.py` finds it. Items are a function of the suite's name, its version and the seed: the
first n are the same however many are asked, on every machine. The version is raised when an item
or a check changes, so that results before and after are not compared; `data_hash` goes into every
run's lock.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from secateur.errors import RequestError

TOKENS = 256
"""Tokens that an answer may take, its thought not counted."""

_TRIES = 50
"""Draws without a new item from which on a suite has no more."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question: messages and tools as OpenAI's API takes them, and what would be right.

    `expected` is JSON, and what it means is the suite's own business. `kind` groups items of a
    suite. `tokens`: how many an answer may take.
    """

    id: str
    messages: tuple[Mapping[str, Any], ...]
    expected: Any
    kind: str
    tools: tuple[Mapping[str, Any], ...] = ()
    tokens: int = TOKENS


class Call(NamedTuple):
    """A tool call as it was answered: the arguments are None where they were no JSON object."""

    name: str
    arguments: Mapping[str, Any] | None


class Answer(NamedTuple):
    """What is scored: the text without its thought, and the tool calls."""

    content: str
    calls: tuple[Call, ...] = ()


class Score(NamedTuple):
    """How right an answer is, 0 to 1, and what was read out of it; None: nothing could be read."""

    value: float
    read: str | None


class Suite(Protocol):
    """Questions, and the check of their answers."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str:
        """What it asks, for a list of suites; one line."""

    @property
    def version(self) -> int: ...

    def items(self, seed: int, count: int) -> tuple[Item, ...]:
        """The first `count` items of a seed. Raises RequestError when there are not so many."""

    def score(self, item: Item, answer: Answer) -> Score:
        """Check an answer; never raises, whatever was answered."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An item before it has an id."""

    kind: str
    messages: tuple[Mapping[str, Any], ...]
    expected: Any
    tools: tuple[Mapping[str, Any], ...] = ()
    tokens: int = TOKENS


def ask(question: str, system: str | None = None) -> tuple[Mapping[str, Any], ...]:
    """The messages of one question."""
    first = () if system is None else ({"role": "system", "content": system},)
    return (*first, {"role": "user", "content": question})


def draw_items(
    suite: Suite, seed: int, count: int, make: Callable[[random.Random], Draft]
) -> tuple[Item, ...]:
    """`count` different items, each from a generator of its own, so that they can be told apart
    by their number alone. Raises RequestError when `make` has not so many."""
    if count < 1 or seed < 0:
        raise RequestError(
            f"{suite.name}: {count} items of seed {seed}, expected at least 1 and a seed from 0"
        )
    items: dict[str, Item] = {}
    number = tries = 0
    while len(items) < count:
        draft = make(random.Random(f"{suite.name}/{suite.version}/{seed}/{number}"))
        key = json.dumps([draft.messages, draft.tools], sort_keys=True)
        tries = tries + 1 if key in items else 0
        if tries > _TRIES:
            raise RequestError(
                f"{suite.name}: there are hardly more than {len(items)} different items, "
                f"{count} were asked for: ask fewer"
            )
        if key not in items:
            items[key] = Item(
                f"{suite.name}-{seed}-{number}",
                draft.messages,
                draft.expected,
                draft.kind,
                draft.tools,
                draft.tokens,
            )
        number += 1
    return tuple(items.values())


def data_hash(suite: Suite, items: Sequence[Item]) -> str:
    """sha256 of a suite's name and version and of everything that its items hold."""
    content = [
        [item.id, item.messages, item.expected, item.kind, item.tools, item.tokens]
        for item in items
    ]
    text = json.dumps([suite.name, suite.version, content], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
