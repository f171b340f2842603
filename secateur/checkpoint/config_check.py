"""Whether the numbers and lists of a config can be true, before anything is computed with them.

What a reader of this config would silently skip or take for 1 (null, true, -1, a text) is an
error here, and so are two keys that give one number twice and differently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.errors import CheckpointError
from secateur.families.router_limits import fewest_experts
from secateur.families.schema import Family
from secateur.system.sizes import show_count

_NEEDED = ("layers", "experts", "top_k")
PER_LAYER = re.compile(r"(.*_)?layer_types|layers_block_type|no_rope_layers")
"""Config keys whose lists have one entry for every layer."""
LAYERS_BY_NUMBER = "per_layer_config"
"""The config key whose members are named by the number of a layer."""
_MOST = 500_000
"""Experts in all layers together: ten times as many as any model has."""
_MOST_LAYERS = 10_000
"""Layers: twenty times as many as any model has."""
_SHOWN = 40
"""Characters of a value that a message shows."""


def check_config(config: Mapping[str, Any], family: Family, file: Path) -> None:
    """Raise CheckpointError for a number or list of `config`, read from `file`, that cannot be.

    Checked are the numbers that the family's [config] table names (null counts as left out), and
    the lists with an entry for each layer.
    """
    _, part = family.section(config)
    numbers = {what: _number(part, what, keys, file) for what, keys in family.config.items()}
    layers, experts, top_k = (int(numbers[what] or 0) for what in _NEEDED)
    if layers > _MOST_LAYERS:
        raise CheckpointError(
            f"{file} describes {layers} layers, expected at most {_MOST_LAYERS}: correct the "
            "number as the model's publisher has it"
        )
    if layers * experts > _MOST:
        raise CheckpointError(
            f"{file} describes {layers} layers of {experts} experts, expected at most {_MOST} "
            "experts in all: correct the two numbers as the model's publisher has them"
        )
    if top_k > experts:
        raise CheckpointError(
            f"{file} sends every token to {top_k} experts, but there are {experts}: "
            "correct one of the two numbers"
        )
    _check_groups(numbers, family, file)
    for key, value in part.items():
        if PER_LAYER.fullmatch(key) and value is not None:
            _check_list(key, value, layers, family, file)
    numbered = part.get(LAYERS_BY_NUMBER)
    if isinstance(numbered, Mapping):
        beyond = [key for key in numbered if key.isdecimal() and int(key) >= layers]
        if beyond:
            raise CheckpointError(
                f"{file} has {LAYERS_BY_NUMBER} for layer {beyond[0]}, but {_layers_key(family)} "
                f"says {layers}: make the two agree"
            )


def _check_groups(numbers: Mapping[str, int | None], family: Family, file: Path) -> None:
    """Groups of experts are equal, and those that a token may use hold what it is sent to."""
    experts, top_k = int(numbers["experts"] or 0), int(numbers["top_k"] or 0)
    groups = numbers.get("groups") or 1
    if groups == 1:
        return
    used = numbers.get("used_groups")
    used = groups if used is None else used
    said = f"{file} has {experts} experts in {groups} groups, of which a token may use {used}"
    if experts % groups or not 1 <= used <= groups:
        raise CheckpointError(
            f"{said}, expected equal groups, and 1 to {groups} of them: correct the numbers as the "
            "model's publisher has them"
        )
    least = fewest_experts(top_k, groups, used, family.router.group_best)
    if experts < least:
        raise CheckpointError(
            f"{said}, and sends it to {top_k} experts, which takes at least {least} in all: "
            "correct the numbers as the model's publisher has them"
        )


def _number(part: Mapping[str, Any], what: str, keys: tuple[str, ...], file: Path) -> int | None:
    """The number that any of `keys` gives; None when none does."""
    least = 1 if what in _NEEDED else 0
    given = {key: part[key] for key in keys if part.get(key) is not None}
    for key, value in given.items():
        if type(value) is not int or value < least:
            raise CheckpointError(
                f"{file} has {key} = {show(value)}, expected a whole number of at least {least}: "
                "correct it as the model's publisher has it"
            )
    if len(set(given.values())) > 1:
        said = " and ".join(f"{key} = {value}" for key, value in given.items())
        raise CheckpointError(f"{file} gives one number twice, {said}: make them agree")
    if not given and what in _NEEDED:
        null = next((key for key in keys if key in part), None)
        said = f"has {null} = null" if null else f"has none of {', '.join(keys)}"
        raise CheckpointError(
            f"{file} {said}, the number of {what}, expected a whole number of at least 1: "
            "is this the config of a Mixture-of-Experts model?"
        )
    return next(iter(given.values()), None)


def _check_list(key: str, value: Any, layers: int, family: Family, file: Path) -> None:
    if not isinstance(value, list):
        raise CheckpointError(
            f"{file} has {key} = {show(value)}, expected a list with an entry for each of the "
            f"{layers} layers"
        )
    if len(value) != layers:
        raise CheckpointError(
            f"{file} has {show_count(len(value), 'entry', 'entries')} in {key}, but "
            f"{_layers_key(family)} says {layers}: make the two agree, as the layers that are "
            "there demand"
        )
    kinds = {type(entry) for entry in value}
    if len(kinds) > 1 or not kinds <= {str, int}:
        raise CheckpointError(
            f"{file} has entries of different kinds in {key}, expected only texts or only numbers"
        )


def _layers_key(family: Family) -> str:
    return family.config["layers"][0]


def show(value: Any) -> str:
    """A value of a config as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
