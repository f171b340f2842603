"""gemmule's arithmetic: is the right calculation set up? Questions in its own words, new numbers.

gemmule writes its steps before the answer. It learned which calculation a question asks for, but
not to carry it out: of 100 results 4 were right. So what is checked is the calculation: its
operands and its operator, written as gemmule was taught, have to stand in the answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from secateur.evaluation.tasks.suites.base import Answer, Draft, Item, Score, ask, draw_items
from secateur.evaluation.tasks.suites.tables import gemmule_tables

Problem = tuple[str, str]
"""A question, and the calculation that it asks for."""


@dataclass(frozen=True, slots=True)
class GemmuleArithmetic:
    """Sums, differences, products, sequences, shares, equations, stories."""

    name: str = "gemmule-arithmetic"
    title: str = "gemmule's own arithmetic: is the right calculation set up?"
    version: int = 1

    def items(self, seed: int, count: int) -> tuple[Item, ...]:
        return draw_items(self, seed, count, _draw)

    def score(self, item: Item, answer: Answer) -> Score:
        read = " ".join(answer.content.split())
        if not read:
            return Score(0.0, None)
        # Not as a part of longer numbers: 2 + 3 does not stand in 12 + 34.
        pattern = rf"(?<![\d.]){re.escape(str(item.expected))}(?![\d.]*\d)"
        return Score(float(re.search(pattern, read) is not None), read)


def _draw(rng: random.Random) -> Draft:
    kind = rng.choice(sorted(_MAKERS))
    question, calculation = _MAKERS[kind](rng)
    return Draft(kind, ask(question), calculation)


def _add(rng: random.Random) -> Problem:
    """The digits at the end are added first, and that sum gemmule knows by heart."""
    a, b = (rng.randrange(11, 10 ** rng.randrange(2, 5)) for _ in range(2))
    question = rng.choice(["What is {} + {}?", "Add {} and {}."]).format(a, b)
    return question, f"{a % 10} + {b % 10} = {a % 10 + b % 10}"


def _subtract(rng: random.Random) -> Problem:
    b = rng.randrange(11, 900)
    a = b + rng.randrange(1, 900)
    question = rng.choice(["What is {} - {}?", "Compute {} - {}."]).format(a, b)
    return question, f"{a} - {b // 10 * 10}"


def _multiply(rng: random.Random) -> Problem:
    a, b = rng.randrange(11, 100), rng.randrange(2, 10)
    question = rng.choice(["What is {} * {}?", "Multiply {} by {}."]).format(a, b)
    tens = f"{a // 10 * 10} * {b}"
    return question, f"{tens} + {a % 10} * {b}" if a % 10 else tens


def _divide(rng: random.Random) -> Problem:
    b, quotient = rng.randrange(2, 13), rng.randrange(3, 60)
    a = b * quotient + rng.randrange(b)
    question = rng.choice(["What is {} divided by {}?", "Divide {} by {}."])
    return question.format(a, b), f"{a} / {b}"


def _sequence(rng: random.Random) -> Problem:
    start, step = rng.randrange(1, 60), rng.choice([2, 3, 4, 5, 6, 7, 8, 9, 11, 12])
    row = [start + step * i for i in range(rng.randrange(3, 6))]
    return f"What comes next: {', '.join(map(str, row))}?", f"{row[-1]} + {step}"


def _row(rng: random.Random) -> Problem:
    row = rng.sample(range(2, 99), rng.randrange(3, 6))
    return f"Add up {', '.join(map(str, row))}.", f"{row[0]} + {row[1]}"


def _percent(rng: random.Random) -> Problem:
    share, whole = rng.choice([5, 10, 20, 25, 30, 40, 50, 60, 75]), rng.randrange(1, 40) * 20
    return f"What is {share}% of {whole}?", f"{share} * {whole / 100:g}"


def _equation(rng: random.Random) -> Problem:
    a, x, b = rng.randrange(2, 13), rng.randrange(1, 30), rng.randrange(1, 60)
    return f"Solve {a} * x + {b} = {a * x + b} for x.", f"{a} * x = {a * x + b} - {b}"


def _expression(rng: random.Random) -> Problem:
    a, b, c = (rng.randrange(2, 25) for _ in range(3))
    if rng.random() < 0.5:
        return f"Evaluate ({a} + {b}) * {c}.", f"First the brackets: {a} + {b}"
    return f"Evaluate {a} + {b} * {c}.", f"First the product: {b} * {c}"


def _convert(rng: random.Random) -> Problem:
    unit, small, factor = rng.choice(
        [("metres", "centimetres", 100), ("hours", "minutes", 60), ("days", "hours", 24)]
    )
    n = rng.randrange(2, 40)
    return f"How many {small} are {n} {unit}?", f"{n} * {factor}"


def _clock(rng: random.Random) -> Problem:
    hour, minute, length = rng.randrange(6, 20), rng.randrange(0, 60, 5), rng.randrange(10, 180, 5)
    question = f"A film starts at {hour}:{minute:02d} and takes {length} minutes. When does it end?"
    return question, f"{hour} * 60 + {minute}"


def _story(rng: random.Random) -> Problem:
    tables = gemmule_tables()
    one, two = rng.sample(tables.names, 2)
    thing = rng.choice(tables.things)
    a, b, c = rng.randrange(8, 90), rng.randrange(2, 40), rng.randrange(2, 12)
    gives = f"{one} has {a} {thing}. {two} gives {one} {b} more."
    stories = (
        (f"{gives} How many {thing} does {one} have now?", f"{a} + {b}"),
        (
            f"{one} had {a + b} {thing} and gave {b} of them to {two}. How many are left?",
            f"{a + b} - {b}",
        ),
        (
            f"There are {c} boxes with {b} {thing} in each. How many {thing} are there in all?",
            f"{c} * {b}",
        ),
        (
            f"{one} shares {b * c} {thing} equally among {c} friends. "
            "How many does each friend get?",
            f"{b * c} / {c}",
        ),
    )
    return rng.choice(stories)


_MAKERS: dict[str, Callable[[random.Random], Problem]] = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
    "sequence": _sequence,
    "row": _row,
    "percent": _percent,
    "equation": _equation,
    "expression": _expression,
    "convert": _convert,
    "clock": _clock,
    "story": _story,
}


SUITES = (GemmuleArithmetic(),)
