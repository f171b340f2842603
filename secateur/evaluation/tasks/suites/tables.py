"""The words and facts that suites fill their questions with, read from data files."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, slots=True)
class Tables:
    """The words of gemmule's dialogues, and facts that are true."""

    names: tuple[str, ...]
    things: tuple[str, ...]
    cities: tuple[str, ...]
    words: tuple[str, ...]
    places: tuple[str, ...]
    countries: tuple[tuple[str, ...], ...]
    """country, capital, continent, language"""
    animals: tuple[tuple[str, ...], ...]
    """animal, kind, legs, food, home, sound"""
    opposites: tuple[tuple[str, ...], ...]
    verbs: tuple[tuple[str, ...], ...]
    """present and past"""
    days: tuple[str, ...]
    colours: tuple[str, ...]


@cache
def gemmule_tables() -> Tables:
    """What gemmule's own dialogues were made of."""
    content = tomllib.loads((_DATA / "gemmule.toml").read_text("utf-8"))

    def rows(name: str) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(line.split(",")) for line in content[name].strip().split("\n"))

    names, things, cities, words, places = (
        tuple(content[name].split()) for name in ("names", "things", "cities", "words", "places")
    )
    groups = content["groups"]
    return Tables(
        names,
        things,
        cities,
        words,
        places,
        rows("countries"),
        rows("animals"),
        rows("opposites"),
        rows("verbs"),
        tuple(groups["day"].split()),
        tuple(groups["colour"].split()),
    )
