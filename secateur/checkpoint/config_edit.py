"""Editing config.json as text: what has to change changes, every other byte stays.

Reading a config into a library and saving it again drops keys that other readers need and
adds defaults nobody chose; so the expert count is replaced where it stands, and keys that some
readers miss are added at the end of their section, in the file's own layout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from secateur.errors import CheckpointError
from secateur.families.config_paths import follow_path
from secateur.families.format_rules import AlsoKey
from secateur.families.schema import Family
from secateur.system import strict_json

EXTRA_LAYERS = "extra_layers"
"""The number of a config that says how many layers come after the model's own: blocks that
predict further tokens, which transformers does not read."""

_CODED = ("quantization_config", "compression_config", "quantization")
"""Keys of a config that say how weights were quantized."""
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


class _Member(NamedTuple):
    """Where a member of a JSON object stands in the text: offsets of key and value."""

    key: int
    colon: int
    value: int
    end: int


class _Edit(NamedTuple):
    start: int
    end: int
    text: str


def without_leftovers(
    config: Mapping[str, Any], family: Family
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the config without what does not hold for plain weights, notes that say so).

    A quantization config is left out: the weights were dequantized. Layers after the model's own,
    which only predict further tokens, are counted as none: no output has them.
    """
    section, part = family.section(config)
    coded = sorted({key for home in (config, part) for key in _CODED if home.get(key)})
    cleaned = _clean(config, family)
    if section:
        cleaned[section] = _clean(part, family)
    return cleaned, tuple(
        f"config.json has a {key}, but the weights are plain numbers: what is written has none"
        for key in coded
    )


def with_experts(text: str, family: Family, experts: int) -> str:
    """The text of config.json, changed to say `experts` routed experts per layer.

    Every expert-count key that is present is set, in the section that describes the text model;
    keys of the family's `also` table are added where they are missing, and what
    `without_leftovers` leaves out is cut out. Raises CheckpointError when two such keys disagree
    or an added key's value is not one number.
    """
    text = _cut_leftovers(text, family)
    config = strict_json.loads(text)
    section, part = family.section(config)
    family.number(config, "experts")
    top = _members(text, _skip(text, 0))
    members = _members(text, top[section].value) if section else top
    found = {key: part[key] for key in family.config["experts"] if key in part}
    if len(set(found.values())) > 1:
        raise CheckpointError(
            f"config.json gives several expert counts ({found}): make them agree first"
        )
    counts = [_Edit(members[key].value, members[key].end, str(experts)) for key in found]
    return with_also(_edited(text, counts), family, family.also)


def with_also(text: str, family: Family, rows: Sequence[AlsoKey]) -> str:
    """The text of config.json with the keys of `rows` that it lacks, where their value is known.

    Raises CheckpointError when a key's value is not one number.
    """
    config = strict_json.loads(text)
    section, part = family.section(config)
    top = _members(text, _skip(text, 0))
    members = _members(text, top[section].value) if section else top
    missing: dict[bool, dict[str, Any]] = {True: {}, False: {}}
    for also in rows:
        home = config if also.top else part
        if also.key not in home and (value := _value(also, part)) is not None:
            missing[also.top or not section][also.key] = value
    edits = _appended(text, top, missing[True]) + _appended(text, members, missing[False])
    return _edited(text, edits)


def with_top(text: str, values: Mapping[str, Any], without: Sequence[str] = ()) -> str:
    """The text of config.json with these keys at its top, and without those; layout kept."""
    for key in (*without, *values):
        text = _without(text, key)
    return _edited(text, _appended(text, _members(text, _skip(text, 0)), values))


def _clean(part: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """A section of the config without what does not hold for plain weights of the model's own."""
    kept = {key: value for key, value in part.items() if not (key in _CODED and value)}
    return kept | dict.fromkeys(_extra_keys(part, family), 0)


def _extra_keys(part: Mapping[str, Any], family: Family) -> list[str]:
    """The keys that count layers after the model's own, where there are any."""
    return [key for key in family.config.get(EXTRA_LAYERS, ()) if part.get(key)]


def _cut_leftovers(text: str, family: Family) -> str:
    """The text without what `without_leftovers` leaves out."""
    config = strict_json.loads(text)
    section, part = family.section(config)
    for key in _CODED:
        if config.get(key):
            text = _without(text, key)
        if section and part.get(key):
            text = _without(text, key, section)
    start = _members(text, _skip(text, 0))[section].value if section else _skip(text, 0)
    members = _members(text, start)
    zeros = [_Edit(members[k].value, members[k].end, "0") for k in _extra_keys(part, family)]
    return _edited(text, zeros)


def _without(text: str, key: str, section: str = "") -> str:
    """The text without the member `key` of a section ("": the top), if it has one."""
    start = _skip(text, 0)
    start = _members(text, start)[section].value if section else start
    members = sorted(_members(text, start).items(), key=lambda item: item[1])
    place = next((i for i, (name, _) in enumerate(members) if name == key), None)
    if place is None:
        return text
    if place + 1 < len(members):
        return text[: members[place][1].key] + text[members[place + 1][1].key :]
    start = members[place - 1][1].end if place else members[place][1].key
    return text[:start] + text[members[place][1].end :]


def _edited(text: str, edits: Sequence[_Edit]) -> str:
    for edit in sorted(edits, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def _value(also: AlsoKey, part: Mapping[str, Any]) -> Any:
    """What an added key has to say; None when its source is not in this config at all."""
    if also.source.partition(".")[0] not in part:
        return None
    if also.layers is None:
        return follow_path(part, also.source)
    otherwise = part.get(also.otherwise) if also.otherwise else None
    values = {
        layer: otherwise if (own := follow_path(part, also.source, layer)) is None else own
        for layer, kind in enumerate(part.get("layer_types") or ())
        if kind == also.layers
    }
    if len(set(values.values())) > 1:
        first, *_, last = sorted(values, key=lambda layer: (values[layer], layer))
        raise CheckpointError(
            f"config.json has {also.source} {values[first]} in layer {first} and {values[last]} "
            f"in layer {last}; the key {also.key}, which other readers need, can hold only one"
        )
    return next(iter(values.values()), None)


def _appended(text: str, members: Mapping[str, _Member], values: Mapping[str, Any]) -> list[_Edit]:
    """New members after the last one, separated and spaced as that one is."""
    if not values:
        return []
    last = max(members.values())
    before = text[: last.key]
    space = before[len(before.rstrip(" \t\r\n")) :]
    colon = text[last.colon : last.value]
    added = "".join(
        f",{space}{json.dumps(k)}{colon}{_laid_out(v, space)}" for k, v in values.items()
    )
    return [_Edit(last.end, last.end, added)]


def _laid_out(value: Any, space: str) -> str:
    """A value as JSON, its members on lines of their own where the file's are."""
    newline, _, margin = space.rpartition("\n")
    if not margin or not isinstance(value, Mapping):
        return json.dumps(value)
    return json.dumps(value, indent=margin).replace("\n", f"{newline}\n{margin}")


def _members(text: str, start: int) -> dict[str, _Member]:
    """The members of the JSON object that opens at `start`, in text known to be valid JSON."""
    members: dict[str, _Member] = {}
    position = _skip(text, start + 1)
    while text[position] != "}":
        key, colon = _DECODER.raw_decode(text, position)
        value = _skip(text, _skip(text, colon) + 1)
        _, end = _DECODER.raw_decode(text, value)
        members[key] = _Member(position, colon, value, end)
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)
    return members


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
