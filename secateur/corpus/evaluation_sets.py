"""The guard against calibrating on what one is going to be scored on."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from secateur.corpus.mix import Source


class EvaluationSet(NamedTuple):
    """A set that models are scored on: hub ids in lower case, and parts of file names."""

    name: str
    hub: frozenset[str]
    names: tuple[str, ...]


def find_evaluation_set(source: Source) -> str | None:
    """The name of the evaluation set that a source reads, if it is a known one.

    A hub data set is known by its id, a local one by its file or folder name, whatever the
    split: also the training part of a set teaches its form.
    """
    plain = re.sub(r"[^a-z0-9]", "", source.location.lower().rsplit("/", 1)[-1])
    for known in _read_sets():
        if source.hub is not None and source.hub.lower() in known.hub:
            return known.name
        if source.path is not None and any(name in plain for name in known.names):
            return known.name
    return None


@cache
def _read_sets() -> tuple[EvaluationSet, ...]:
    content = (Path(__file__).parent / "evaluation_sets.yaml").read_text(encoding="utf-8")
    return tuple(
        EvaluationSet(
            entry["name"],
            frozenset(identifier.lower() for identifier in entry["hub"]),
            tuple(entry["names"]),
        )
        for entry in yaml.safe_load(content)
    )
