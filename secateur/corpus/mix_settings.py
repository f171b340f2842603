"""A mix as the settings that give it again: what a resolved job holds instead of a file's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from secateur.corpus.mix import Mix, Source


def mix_settings(mix: Mix, commits: Mapping[str, str], folder: str) -> dict[str, Any]:
    """The content of a YAML file that `read_mix` reads as the same mix: nothing is left out.

    `commits` are {source: the commit of the hub that was read}; `folder` is what the paths are
    relative to, as it shall be written.
    """
    return {
        "name": mix.name,
        "description": mix.description or None,
        "folder": folder,
        "seed": mix.seed,
        "sequence_length": mix.sequence_length,
        "overlong": mix.overlong,
        "pack": mix.pack,
        "thought": mix.thought,
        "sources": [_source_settings(source, commits) for source in mix.sources],
    }


def _source_settings(source: Source, commits: Mapping[str, str]) -> dict[str, Any]:
    place: dict[str, Any] = {"path": source.location}
    if source.hub is not None:
        place = {"hub": source.hub, "revision": commits.get(source.name, source.revision)}
    settings = {
        "name": source.name,
        **place,
        "config": source.config,
        "split": source.split,
        "category": source.category,
        "category_field": source.category_field,
        "fields": {key: value for key, value in asdict(source.fields).items() if value is not None},
        "samples": source.samples,
        "tokens": source.tokens,
        "allow_short": source.allow_short,
        "separator": source.separator,
        "thought_tags": list(source.thought_tags) if source.thought_tags else None,
        "template": dict(source.template),
    }
    return {key: value for key, value in settings.items() if value is not None}
