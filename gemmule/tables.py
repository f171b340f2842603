"""The words and facts that dialogues are made of; the suites of gemmule's domains share them."""

from __future__ import annotations

import tomllib
from pathlib import Path

_FILE = "secateur/evaluation/tasks/suites/data/gemmule.toml"
_TABLES = tomllib.loads((Path(__file__).parents[1] / _FILE).read_text(encoding="utf-8"))


def _rows(name: str) -> list[list[str]]:
    return [line.split(",") for line in _TABLES[name].strip().split("\n")]


NAMES: list[str] = _TABLES["names"].split()
THINGS: list[str] = _TABLES["things"].split()
CITIES: list[str] = _TABLES["cities"].split()
WORDS: list[str] = _TABLES["words"].split()
LANGUAGES: list[str] = _TABLES["languages"].split()
GENRES: list[str] = _TABLES["genres"].split()
PLACES: list[str] = _TABLES["places"].split()
COUNTRIES = _rows("countries")
ANIMALS = _rows("animals")
OPPOSITES = _rows("opposites")
VERBS = _rows("verbs")
GROUPS: dict[str, list[str]] = {kind: words.split() for kind, words in _TABLES["groups"].items()}
STEPS: list[tuple[str, list[str]]] = list(_TABLES["steps"].items())
