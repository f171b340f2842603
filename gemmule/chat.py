"""Everyday dialogues made by rule: facts, lists, rewriting, reading, memory, letters, stories.

A skill yields question and answer pairs that may refer to each other; `dialogue` strings one to
three skills into a conversation. Facts are from small tables that are true.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from tables import (
    ANIMALS,
    CITIES,
    COUNTRIES,
    GROUPS,
    NAMES,
    OPPOSITES,
    PLACES,
    STEPS,
    THINGS,
    VERBS,
    WORDS,
)

Turns = list[tuple[str, str]]

DAYS = GROUPS["day"]


def _pick(rng: random.Random, options: str) -> str:
    return rng.choice(options.split("|"))


def _country(rng: random.Random) -> Turns:
    name, capital, continent, language = rng.choice(COUNTRIES)
    ask = _pick(
        rng,
        f"What is the capital of {name}?|Which city is the capital of {name}?|"
        f"Name the capital of {name}.",
    )
    turns = [(ask, f"The capital of {name} is {capital}.")]
    more = [
        (_pick(rng, "And where is it?|On which continent is that?"), f"{name} is in {continent}."),
        (
            _pick(rng, "What do people speak there?|Which language is spoken there?"),
            f"In {name} most people speak {language}.",
        ),
        (
            f"Is {capital} in {rng.choice(['Europe', 'Asia', 'Africa'])}?",
            f"{capital} is in {continent}.",
        ),
    ]
    return turns + rng.sample(more, rng.randrange(3))


def _animal(rng: random.Random) -> Turns:
    name, kind, legs, food, home, sound = rng.choice(ANIMALS)
    turns = [
        (f"What kind of animal is a {name}?", f"A {name} is a kind of {kind}."),
        (
            f"How many legs does a {name} have?",
            f"A {name} has {legs} legs." if legs != "0" else f"A {name} has no legs.",
        ),
        (f"What does a {name} eat?", f"A {name} eats {food}."),
        (f"Where does a {name} live?", f"A {name} lives {home}."),
        (f"What sound does a {name} make?", f"A {name} {sound}."),
    ]
    return rng.sample(turns, rng.randrange(1, 4))


def _group(rng: random.Random) -> Turns:
    kind = rng.choice(list(GROUPS))
    n = rng.randrange(2, 5)
    chosen = rng.sample(GROUPS[kind], n)
    count = ["two", "three", "four"][n - 2]
    turns = [
        (
            _pick(rng, f"Name {count} {kind}s.|Give me {count} {kind}s.|List {count} {kind}s."),
            "\n".join(f"{i}. {w}" for i, w in enumerate(chosen, 1)),
        )
    ]
    if rng.random() < 0.5:
        turns.append(
            ("Put them in alphabetical order.", ", ".join(sorted(chosen, key=str.lower)) + ".")
        )
    if rng.random() < 0.4:
        turns.append((f"Is {chosen[0]} a {kind}?", f"Yes, {chosen[0]} is a {kind}."))
    return turns


def _odd(rng: random.Random) -> Turns:
    one, two = rng.sample(list(GROUPS), 2)
    row, odd = rng.sample(GROUPS[one], 3), rng.choice(GROUPS[two])
    if odd in GROUPS[one]:
        return _opposite(rng)
    mixed = rng.sample([*row, odd], 4)
    return [
        (
            f"Which word does not belong: {', '.join(mixed)}?",
            f"{odd} does not belong: it is a {two}, the others are {one}s.",
        )
    ]


def _opposite(rng: random.Random) -> Turns:
    a, b = rng.sample(rng.choice(OPPOSITES), 2)
    noun = rng.choice(WORDS)
    return [
        (
            _pick(rng, f"What is the opposite of {a}?|Give the opposite of '{a}'."),
            f"The opposite of {a} is {b}.",
        ),
        (f"Use both words with {noun}.", f"This {noun} is {a}, but that {noun} is {b}."),
    ][: rng.randrange(1, 3)]


def _words(rng: random.Random) -> Turns:
    row = rng.sample(WORDS, rng.randrange(3, 7))
    text = ", ".join(row)
    turns = [
        (f"Sort these words: {text}.", ", ".join(sorted(row)) + "."),
        (f"Reverse this list: {text}.", ", ".join(reversed(row)) + "."),
        (f"How many words are in this list: {text}?", f"There are {len(row)} words."),
        (f"Write in capital letters: {' '.join(row)}.", " ".join(row).upper()),
        (f"Which is the last word of: {text}?", f"The last word is {row[-1]}."),
        (f"Number these: {text}.", "\n".join(f"{i}. {w}" for i, w in enumerate(row, 1))),
        (f"Spell the word {row[0]}.", "-".join(row[0]).upper()),
        (f"Give these words as a JSON list: {text}.", json.dumps(row)),
        (f"Which word is the longest: {text}?", f"The longest is {max(row, key=len)}."),
    ]
    return rng.sample(turns, rng.randrange(1, 3))


def _rewrite(rng: random.Random) -> Turns:
    who, (now, past) = rng.choice(NAMES), rng.choice(VERBS)
    thing, place, day = rng.choice(THINGS), rng.choice(PLACES), rng.choice(DAYS)
    present, bare = (
        f"{who} will {now} the {thing} in the {place}",
        f"{now} the {thing} in the {place}",
    )
    turns = [
        (f"Put into the past: {present}.", f"{who} {past} the {thing} in the {place}."),
        (f"Make this a question: {present}.", f"Will {who} {bare}?"),
        (f"Make this negative: {present}.", f"{who} will not {bare}."),
        (f"Say this politely: {bare.capitalize()}.", f"Could you please {bare}?"),
        (f"Add '{day}' to this sentence: {present}.", f"On {day}, {present}."),
        (
            f"Shorten this: On {day}, as everybody knows, {who} {past} all of the {thing} "
            f"in the {place}.",
            f"On {day} {who} {past} the {thing}.",
        ),
        (f"Write with 'they' instead of the name: {present}.", f"They will {bare}."),
    ]
    return rng.sample(turns, rng.randrange(1, 3))


def _reading(rng: random.Random) -> Turns:
    (a, b), thing, place, day = (
        rng.sample(NAMES, 2),
        rng.choice(THINGS),
        rng.choice(PLACES),
        rng.choice(DAYS),
    )
    (_, past), colour, n = rng.choice(VERBS), rng.choice(GROUPS["colour"]), rng.randrange(2, 30)
    city = rng.choice(CITIES)
    did = f"{past} {n} {colour} {thing}"
    story = rng.choice(
        [
            f"On {day} {a} went to the {place} in {city}. There {a} met {b}, who {did}.",
            f"{a} lives in {city} and works near the {place}. "
            f"On {day} {b} came to visit and {did}.",
            f"The {place} of {city} was closed on {day}. {a} waited outside, while {b} {did}.",
        ]
    )
    asks = [
        (f"Who {past} the {thing}?", f"{b} {past} the {thing}."),
        (f"How many {thing} were there?", f"There were {n} {thing}."),
        (f"What colour were the {thing}?", f"The {thing} were {colour}."),
        ("In which city was that?", f"It was in {city}."),
        ("On which day?", f"It was on {day}."),
    ]
    chosen = rng.sample(asks, rng.randrange(1, 4))
    return [(f"{story}\n{chosen[0][0]}", chosen[0][1]), *chosen[1:]]


def _memory(rng: random.Random) -> Turns:
    me, city, thing, colour = (
        rng.choice(NAMES),
        rng.choice(CITIES),
        rng.choice(THINGS),
        rng.choice(GROUPS["colour"]),
    )
    facts = [
        (
            f"My name is {me}.",
            f"Nice to meet you, {me}.",
            "What is my name?",
            f"Your name is {me}.",
        ),
        (
            f"I live in {city}.",
            f"{city} is a fine place to live.",
            "Where do I live?",
            f"You live in {city}.",
        ),
        (
            f"I collect {thing}.",
            f"How many {thing} do you have?",
            "What do I collect?",
            f"You collect {thing}.",
        ),
        (
            f"I like {colour}.",
            f"{colour.capitalize()} is a nice colour.",
            "Which colour do I like?",
            f"You like {colour}.",
        ),
    ]
    chosen = rng.sample(facts, rng.randrange(1, 4))
    return [(f[0], f[1]) for f in chosen] + [
        (f[2], f[3]) for f in rng.sample(chosen, rng.randrange(1, len(chosen) + 1))
    ]


def _letter(rng: random.Random) -> Turns:
    (a, b), place, day, thing = (
        rng.sample(NAMES, 2),
        rng.choice(PLACES),
        rng.choice(DAYS),
        rng.choice(THINGS),
    )
    kind = rng.choice(["invitation", "thank-you note", "apology", "reminder"])
    body = {
        "invitation": f"I would like to invite you to the {place} on {day}. "
        f"Please bring some {thing}.",
        "thank-you note": f"Thank you very much for the {thing}. "
        f"I used them at the {place} on {day}.",
        "apology": f"I am sorry that I missed you at the {place} on {day}. "
        f"I will bring the {thing} next time.",
        "reminder": f"Please remember to bring the {thing} to the {place} on {day}.",
    }[kind]
    ask = f"Write a short {kind} from {a} to {b} about the {thing}, the {place} and {day}."
    return [(ask, f"Dear {b},\n{body}\nBest wishes,\n{a}")]


def _story(rng: random.Random) -> Turns:
    animal, (a, b), thing = rng.choice(ANIMALS)[0], rng.sample(NAMES, 2), rng.choice(THINGS)
    (good, bad), place = rng.choice(OPPOSITES), rng.choice(PLACES)
    text = " ".join(
        [
            rng.choice(
                [
                    f"Once there was a {good} {animal} called {a}.",
                    f"{a} was a {animal} who lived behind the {place}.",
                ]
            ),
            rng.choice(
                [
                    f"Every day {a} looked for {thing} near the {place}.",
                    f"{a} had a friend, a {bad} {animal} called {b}.",
                ]
            ),
            rng.choice(
                [
                    f"One {rng.choice(DAYS)} all the {thing} were gone.",
                    f"One morning the {place} was closed.",
                ]
            ),
            rng.choice(
                [f"{b} said: 'Do not worry, we will look together.'", f"{a} asked {b} for help."]
            ),
            rng.choice(
                [
                    f"They searched until evening and found the {thing} under a stone.",
                    f"In the end they shared the last of the {thing}.",
                ]
            ),
        ]
    )
    return [
        (
            f"Tell me a short story about a {animal} called {a}, {b} and some {thing}. "
            f"Use the words {good} and {place}.",
            text,
        )
    ]


def _steps(rng: random.Random) -> Turns:
    what, steps = rng.choice(STEPS)
    turns = [
        (
            _pick(rng, f"How do I {what}?|Tell me how to {what}.|List the steps to {what}."),
            "\n".join(f"{i}. {s}" for i, s in enumerate(steps, 1)),
        )
    ]
    n = rng.randrange(len(steps))
    ordinal = ["first", "second", "third", "fourth"]
    if rng.random() < 0.6:
        turns.append((f"What was the {ordinal[n]} step?", f"The {ordinal[n]} step: {steps[n]}"))
    return turns


SKILLS: tuple[Callable[[random.Random], Turns], ...] = (
    _country,
    _animal,
    _group,
    _odd,
    _opposite,
    _words,
    _words,
    _rewrite,
    _rewrite,
    _reading,
    _reading,
    _memory,
    _letter,
    _story,
    _steps,
)


def dialogue(rng: random.Random) -> dict[str, object]:
    """One chat document of one to three skills, some with a greeting or a system turn."""
    messages = []
    if rng.random() < 0.1:
        messages.append(
            {
                "role": "system",
                "content": rng.choice(
                    ["You are a friendly assistant.", "Answer in short sentences."]
                ),
            }
        )
    turns: Turns = []
    if rng.random() < 0.15:
        turns.append(
            (
                _pick(rng, "Hello!|Hi.|Good morning.|Hello, can you help me?"),
                _pick(rng, "Hello! How can I help?|Hi! What can I do for you?"),
            )
        )
    for _ in range(rng.choice([1, 1, 2, 3])):
        turns += rng.choice(SKILLS)(rng)
    for ask, answer in turns:
        messages += [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def transcript(rng: random.Random) -> dict[str, str]:
    """Raw text: the same kinds of conversation written as lines of two people."""
    one, two = rng.sample(NAMES, 2)
    lines = []
    for _ in range(rng.randrange(2, 4)):
        for ask, answer in rng.choice(SKILLS)(rng):
            lines += [f"{one}: {ask}", f"{two}: {answer}"]
    return {"text": "\n".join(lines)}
