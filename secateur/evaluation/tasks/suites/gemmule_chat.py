"""gemmule's everyday dialogues: facts, words, rewriting, reading, memory; one answer is right.

The whole answer is compared, but for spaces and the full stop at its end: gemmule learned one form
of each answer, and what goes on after it is part of what pruning breaks.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from secateur.evaluation.tasks.suites.base import Answer, Draft, Item, Score, draw_items
from secateur.evaluation.tasks.suites.tables import gemmule_tables

Turns = list[str]
"""Questions and answers in turn; the last one is the answer that is expected."""


@dataclass(frozen=True, slots=True)
class GemmuleChat:
    """The one right answer, in the form that gemmule was taught."""

    name: str = "gemmule-chat"
    title: str = "gemmule's own dialogues: facts, words, rewriting, reading, memory"
    version: int = 1

    def items(self, seed: int, count: int) -> tuple[Item, ...]:
        return draw_items(self, seed, count, _draw)

    def score(self, item: Item, answer: Answer) -> Score:
        read = " ".join(answer.content.split())
        if not read:
            return Score(0.0, None)
        return Score(float(_plain(read) == _plain(str(item.expected))), read)


def _plain(text: str) -> str:
    """Without spaces and a full stop at the ends; case counts where it is asked for."""
    return " ".join(text.split()).strip(" .")


def _draw(rng: random.Random) -> Draft:
    kind = rng.choice(sorted(_SKILLS))
    *turns, expected = _SKILLS[kind](rng)
    messages = tuple(
        {"role": ("user", "assistant")[number % 2], "content": text}
        for number, text in enumerate(turns)
    )
    return Draft(kind, messages, expected, tokens=128)


def _country(rng: random.Random) -> Turns:
    country, capital, continent, language = rng.choice(gemmule_tables().countries)
    turns = [f"What is the capital of {country}?", f"The capital of {country} is {capital}."]
    more = rng.choice(
        [
            [],
            ["And where is it?", f"{country} is in {continent}."],
            ["Which language is spoken there?", f"In {country} most people speak {language}."],
        ]
    )
    return turns + more


def _animal(rng: random.Random) -> Turns:
    animal, kind, legs, food, home, sound = rng.choice(gemmule_tables().animals)
    count = "no" if legs == "0" else legs
    return rng.choice(
        [
            [f"What kind of animal is a {animal}?", f"A {animal} is a kind of {kind}."],
            [f"How many legs does a {animal} have?", f"A {animal} has {count} legs."],
            [f"What does a {animal} eat?", f"A {animal} eats {food}."],
            [f"Where does a {animal} live?", f"A {animal} lives {home}."],
            [f"What sound does a {animal} make?", f"A {animal} {sound}."],
        ]
    )


def _opposite(rng: random.Random) -> Turns:
    one, other = rng.sample(rng.choice(gemmule_tables().opposites), 2)
    return [f"What is the opposite of {one}?", f"The opposite of {one} is {other}."]


def _words(rng: random.Random) -> Turns:
    row = rng.sample(gemmule_tables().words, rng.randrange(3, 7))
    text = ", ".join(row)
    turns = [
        [f"Sort these words: {text}.", ", ".join(sorted(row)) + "."],
        [f"Reverse this list: {text}.", ", ".join(reversed(row)) + "."],
        [f"How many words are in this list: {text}?", f"There are {len(row)} words."],
        [f"Write in capital letters: {' '.join(row)}.", " ".join(row).upper()],
        [f"Which is the last word of: {text}?", f"The last word is {row[-1]}."],
        [f"Number these: {text}.", "\n".join(f"{i}. {w}" for i, w in enumerate(row, 1))],
        [f"Spell the word {row[0]}.", "-".join(row[0]).upper()],
        [f"Give these words as a JSON list: {text}.", json.dumps(row)],
        [f"Which word is the longest: {text}?", f"The longest is {max(row, key=len)}."],
    ]
    longest = max(map(len, row))
    one_longest = sum(len(word) == longest for word in row) == 1
    return rng.choice(turns if one_longest else turns[:-1])


def _rewrite(rng: random.Random) -> Turns:
    tables = gemmule_tables()
    who, (now, past) = rng.choice(tables.names), rng.choice(tables.verbs)
    thing, place, day = (
        rng.choice(tables.things),
        rng.choice(tables.places),
        rng.choice(tables.days),
    )
    bare = f"{now} the {thing} in the {place}"
    said = f"{who} will {bare}"
    return rng.choice(
        [
            [f"Put into the past: {said}.", f"{who} {past} the {thing} in the {place}."],
            [f"Make this a question: {said}.", f"Will {who} {bare}?"],
            [f"Make this negative: {said}.", f"{who} will not {bare}."],
            [f"Say this politely: {bare.capitalize()}.", f"Could you please {bare}?"],
            [f"Add '{day}' to this sentence: {said}.", f"On {day}, {said}."],
            [f"Write with 'they' instead of the name: {said}.", f"They will {bare}."],
        ]
    )


def _reading(rng: random.Random) -> Turns:
    tables = gemmule_tables()
    one, other = rng.sample(tables.names, 2)
    thing, place, day = (
        rng.choice(tables.things),
        rng.choice(tables.places),
        rng.choice(tables.days),
    )
    past, colour = rng.choice(tables.verbs)[1], rng.choice(tables.colours)
    number, city = rng.randrange(2, 30), rng.choice(tables.cities)
    story = (
        f"On {day} {one} went to the {place} in {city}. "
        f"There {one} met {other}, who {past} {number} {colour} {thing}."
    )
    question, answer = rng.choice(
        [
            (f"Who {past} the {thing}?", f"{other} {past} the {thing}."),
            (f"How many {thing} were there?", f"There were {number} {thing}."),
            (f"What colour were the {thing}?", f"The {thing} were {colour}."),
            ("In which city was that?", f"It was in {city}."),
            ("On which day?", f"It was on {day}."),
        ]
    )
    return [f"{story}\n{question}", answer]


def _memory(rng: random.Random) -> Turns:
    tables = gemmule_tables()
    name, city = rng.choice(tables.names), rng.choice(tables.cities)
    thing, colour = rng.choice(tables.things), rng.choice(tables.colours)
    facts = [
        (f"My name is {name}.", f"Nice to meet you, {name}.", "What is my name?",
         f"Your name is {name}."),
        (f"I live in {city}.", f"{city} is a fine place to live.", "Where do I live?",
         f"You live in {city}."),
        (f"I collect {thing}.", f"How many {thing} do you have?", "What do I collect?",
         f"You collect {thing}."),
        (f"I like {colour}.", f"{colour.capitalize()} is a nice colour.",
         "Which colour do I like?", f"You like {colour}."),
    ]  # fmt: skip
    chosen = rng.sample(facts, rng.randrange(1, 4))
    _, _, question, answer = rng.choice(chosen)
    return [text for fact in chosen for text in fact[:2]] + [question, answer]


_SKILLS: dict[str, Callable[[random.Random], Turns]] = {
    "country": _country,
    "animal": _animal,
    "opposite": _opposite,
    "words": _words,
    "rewrite": _rewrite,
    "reading": _reading,
    "memory": _memory,
}


SUITES = (GemmuleChat(),)
