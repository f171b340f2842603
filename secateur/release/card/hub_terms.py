"""What the Hub knows in front matter, as data (`data/hub.toml`, with sources and dates)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class HubTerms:
    """The lists of data/hub.toml; `said_of_weights` are words by what they say was done."""

    relations: Sequence[str]
    libraries: Sequence[str]
    pipeline_tags: Sequence[str]
    licenses: Sequence[str]
    lfs_endings: Sequence[str]
    license_links: Mapping[str, str]
    said_of_weights: Mapping[str, Sequence[str]]


@cache
def hub_terms() -> HubTerms:
    """The lists, read once."""
    text = (resources.files(__package__) / "data" / "hub.toml").read_text("utf-8")
    return HubTerms(**tomllib.loads(text))
