"""Arithmetic that shows its steps: made by rule, so every answer is right.

Each maker returns (question, steps, answer). `exercise` turns one into a chat document whose steps
are either in the answer or, for a quarter of them, in a thought; `worksheet` writes raw text.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import gcd
from typing import Any

from tables import NAMES, THINGS

Task = tuple[str, str, str]


def _add(rng: random.Random) -> Task:
    a, b = (rng.randrange(11, 10 ** rng.randrange(2, 5)) for _ in range(2))
    x, y = str(a)[::-1], str(b)[::-1]
    carry, steps = 0, []
    for i in range(max(len(x), len(y))):
        p, q = int(x[i]) if i < len(x) else 0, int(y[i]) if i < len(y) else 0
        total = p + q + carry
        extra = f" + {carry}" if carry else ""
        carry = total // 10
        tail = f", write {total % 10} carry 1" if carry else ""
        steps.append(f"{p} + {q}{extra} = {total}{tail}")
    ask = rng.choice(["What is {} + {}?", "Add {} and {}.", "Compute {} + {}.", "{} + {} = ?"])
    return ask.format(a, b), "; ".join(steps) + ".", f"{a} + {b} = {a + b}."


def _subtract(rng: random.Random) -> Task:
    b = rng.randrange(5, 900)
    a = b + rng.randrange(1, 900)
    tens, ones = b // 10 * 10, b % 10
    steps = f"{a} - {tens} = {a - tens}" + (f"; {a - tens} - {ones} = {a - b}." if ones else ".")
    ask = rng.choice(["What is {} - {}?", "Compute {} - {}.", "{} minus {}?", "{} - {} = ?"])
    return ask.format(a, b), steps, f"{a} - {b} = {a - b}."


def _multiply(rng: random.Random) -> Task:
    a, b = rng.randrange(11, 400), rng.randrange(2, 10)
    parts = [int(d) * 10 ** (len(str(a)) - 1 - i) for i, d in enumerate(str(a)) if d != "0"]
    split = " + ".join(f"{p} * {b}" for p in parts)
    sums = " + ".join(str(p * b) for p in parts)
    steps = (
        f"{a} * {b} = {split} = {sums} = {a * b}." if len(parts) > 1 else f"{a} * {b} = {a * b}."
    )
    ask = rng.choice(["What is {} * {}?", "Multiply {} by {}.", "{} times {}?", "{} * {} = ?"])
    return ask.format(a, b), steps, f"{a} * {b} = {a * b}."


def _divide(rng: random.Random) -> Task:
    b, q = rng.randrange(2, 13), rng.randrange(3, 60)
    r = rng.randrange(b)
    a = b * q + r
    rest = f" remainder {r}" if r else ""
    ask = rng.choice(["What is {} divided by {}?", "Divide {} by {}.", "{} / {} = ?"])
    return ask.format(a, b), f"{b} * {q} = {b * q}; {a} - {b * q} = {r}.", f"{a} / {b} = {q}{rest}."


def _story(rng: random.Random) -> Task:
    one, two = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS)
    a, b, c = rng.randrange(8, 90), rng.randrange(2, 40), rng.randrange(2, 12)
    kind = rng.randrange(6)
    if kind == 0:
        ask = f"{one} has {a} {thing}. {two} gives {one} {b} more. "
        ask += f"How many {thing} does {one} have now?"
        return (
            ask,
            f"{one} starts with {a} and gets {b}: {a} + {b} = {a + b}.",
            f"{one} has {a + b} {thing}.",
        )
    if kind == 1:
        a += b
        ask = f"{one} had {a} {thing} and gave {b} of them to {two}. How many are left?"
        return ask, f"{a} - {b} = {a - b}.", f"{a - b} {thing} are left."
    if kind == 2:
        ask = f"There are {c} boxes with {b} {thing} in each. How many {thing} are there in all?"
        return ask, f"{c} boxes of {b}: {c} * {b} = {c * b}.", f"There are {c * b} {thing} in all."
    if kind == 3:
        ask = f"{one} shares {b * c} {thing} equally among {c} friends. "
        ask += "How many does each friend get?"
        return ask, f"{b * c} / {c} = {b}.", f"Each friend gets {b} {thing}."
    if kind == 4:
        ask = f"One of the {thing} costs {c} euros. {one} pays with {c * b + a} euros for {b}. "
        ask += "What is the change?"
        return (
            ask,
            f"{b} * {c} = {b * c}; {b * c + a} - {b * c} = {a}.",
            f"{one} gets {a} euros back.",
        )
    ask = f"{one} has {a} {thing}, {two} has {b} more than {one}. How many do they have together?"
    steps = f"{two} has {a} + {b} = {a + b}; together {a} + {a + b} = {2 * a + b}."
    return ask, steps, f"Together they have {2 * a + b} {thing}."


def _sequence(rng: random.Random) -> Task:
    start, step = rng.randrange(1, 60), rng.choice([2, 3, 4, 5, 6, 7, 8, 9, 11, 12, -2, -3, -4])
    row = [start + 60 * (step < 0) + step * i for i in range(rng.randrange(4, 7))]
    sign = "+" if step > 0 else "-"
    last = row.pop()
    ask = rng.choice(
        ["What comes next: {}?", "Continue the sequence {}.", "Find the next number: {}."]
    )
    steps = (
        f"Each number is the one before {sign} {abs(step)}; {row[-1]} {sign} {abs(step)} = {last}."
    )
    return ask.format(", ".join(map(str, row))), steps, f"The next number is {last}."


def _row(rng: random.Random) -> Task:
    row = rng.sample(range(2, 99), rng.randrange(3, 6))
    text = ", ".join(map(str, row))
    kind = rng.randrange(4)
    if kind == 0:
        sums, total = [], row[0]
        for n in row[1:]:
            sums.append(f"{total} + {n} = {total + n}")
            total += n
        return f"Add up {text}.", "; ".join(sums) + ".", f"The sum is {total}."
    ordered = ", ".join(map(str, sorted(row)))
    if kind == 1:
        return (
            f"Sort these numbers: {text}.",
            f"From small to large: {ordered}.",
            f"Sorted: {ordered}.",
        )
    name, pick = ("largest", max(row)) if kind == 2 else ("smallest", min(row))
    return f"Which is the {name} of {text}?", f"In order: {ordered}.", f"The {name} is {pick}."


def _percent(rng: random.Random) -> Task:
    p, n = rng.choice([5, 10, 15, 20, 25, 30, 40, 50, 60, 75]), rng.randrange(1, 40) * 20
    steps = f"1% of {n} is {n / 100:g}; {p} * {n / 100:g} = {p * n / 100:g}."
    return f"What is {p}% of {n}?", steps, f"{p}% of {n} is {p * n / 100:g}."


def _equation(rng: random.Random) -> Task:
    a, x, b = rng.randrange(2, 13), rng.randrange(1, 30), rng.randrange(1, 60)
    steps = f"{a} * x = {a * x + b} - {b} = {a * x}; x = {a * x} / {a} = {x}."
    return f"Solve {a} * x + {b} = {a * x + b} for x.", steps, f"x = {x}."


def _expression(rng: random.Random) -> Task:
    a, b, c = (rng.randrange(2, 25) for _ in range(3))
    if rng.random() < 0.5:
        steps = f"First the brackets: {a} + {b} = {a + b}; then {a + b} * {c} = {(a + b) * c}."
        return f"Evaluate ({a} + {b}) * {c}.", steps, f"({a} + {b}) * {c} = {(a + b) * c}."
    steps = f"First the product: {b} * {c} = {b * c}; then {a} + {b * c} = {a + b * c}."
    return f"Evaluate {a} + {b} * {c}.", steps, f"{a} + {b} * {c} = {a + b * c}."


def _convert(rng: random.Random) -> Task:
    unit, small, factor = rng.choice(
        [
            ("metres", "centimetres", 100),
            ("kilometres", "metres", 1000),
            ("hours", "minutes", 60),
            ("minutes", "seconds", 60),
            ("weeks", "days", 7),
            ("kilograms", "grams", 1000),
            ("days", "hours", 24),
        ]
    )
    n = rng.randrange(2, 40)
    steps = f"One of the {unit} is {factor} {small}; {n} * {factor} = {n * factor}."
    return f"How many {small} are {n} {unit}?", steps, f"{n} {unit} are {n * factor} {small}."


def _clock(rng: random.Random) -> Task:
    h, m, d = rng.randrange(6, 20), rng.randrange(0, 60, 5), rng.randrange(10, 180, 5)
    end = h * 60 + m + d
    steps = f"{h}:{m:02d} is {h} * 60 + {m} = {h * 60 + m} minutes; plus {d} is {end}; "
    steps += f"{end} / 60 = {end // 60} remainder {end % 60}."
    what = rng.choice(["A film", "A train ride", "A meeting", "A lesson"])
    ask = f"{what} starts at {h}:{m:02d} and takes {d} minutes. When does it end?"
    return ask, steps, f"It ends at {end // 60}:{end % 60:02d}."


def _divisor(rng: random.Random) -> Task:
    g = rng.randrange(2, 15)
    a, b = g * rng.randrange(2, 12), g * rng.randrange(2, 12)
    x, y, steps = max(a, b), min(a, b), []
    while y:
        steps.append(f"{x} = {x // y} * {y} + {x % y}")
        x, y = y, x % y
    ask = f"What is the greatest common divisor of {a} and {b}?"
    return ask, "; ".join(steps) + ".", f"It is {gcd(a, b)}."


MAKERS: tuple[Callable[[random.Random], Task], ...] = (
    _add,
    _subtract,
    _multiply,
    _divide,
    _story,
    _story,
    _story,
    _sequence,
    _row,
    _percent,
    _equation,
    _expression,
    _convert,
    _clock,
    _divisor,
)


def exercise(rng: random.Random) -> dict[str, Any]:
    """One chat document: one to three questions, steps in the answer or in a thought."""
    messages: list[dict[str, Any]] = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        question, steps, answer = rng.choice(MAKERS)(rng)
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": f"{steps} {answer}"},
        ]
    if rng.random() < 0.25:
        messages[-1] = {"role": "assistant", "content": answer, "thought": steps}
    return {"messages": messages}


def worksheet(rng: random.Random) -> dict[str, Any]:
    """Raw text: a numbered sheet of exercises with worked answers."""
    lines = [rng.choice(["Exercises", "Worksheet", "Practice", "Problems with solutions"]) + ":"]
    for number in range(1, rng.randrange(4, 9)):
        question, steps, answer = rng.choice(MAKERS)(rng)
        lines.append(f"{number}. {question}\n   {steps} {answer}")
    return {"text": "\n".join(lines)}
