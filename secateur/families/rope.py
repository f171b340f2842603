"""Which kind of rotary embedding a config asks for, in any spelling that transformers reads.

It stands in `rope_parameters` (transformers 5) or `rope_scaling`, for all layers or by layer type,
and its kind under `rope_type` or the older `type`. Without either the kind is "default".
Source: transformers 5.23, RotaryEmbeddingConfigMixin.standardize_rope_params.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.errors import CheckpointError

ALL = "all"
"""Stands for every layer type where a config does not tell them apart."""
DEFAULT = "default"

_PLACES = ("rope_parameters", "rope_scaling")
_SPELLINGS = ("rope_type", "type")
_SHARED = {"rope_theta", "partial_rotary_factor"}
"""Keys that all kinds have."""
_OF_DEFAULT = {*_SPELLINGS, *_SHARED}
"""Keys that mean something without scaling; any other asks for a scaling of unknown kind."""


def rope_kinds(part: Mapping[str, Any]) -> dict[str, str]:
    """{layer type, or ALL: kind} of the config section that describes the text model.

    Empty for a config that says nothing of it: transformers takes the model's own then. Raises
    CheckpointError where two spellings disagree, or a scaling has numbers and no kind.
    """
    found: dict[str, dict[str, str]] = {}  # layer type -> spelling -> kind
    for place in _PLACES:
        settings = part.get(place)
        if settings is None:
            continue
        if not isinstance(settings, Mapping):
            raise CheckpointError(f"config.json has {place} = {settings!r}, expected an object")
        by_type = {key: value for key, value in settings.items() if isinstance(value, Mapping)}
        for_all = {key: value for key, value in settings.items() if key not in by_type}
        if not by_type or not for_all.keys() <= _SHARED:
            by_type[ALL] = for_all
        for layer_type, one in by_type.items():
            at = place if layer_type == ALL else f"{place}.{layer_type}"
            found.setdefault(layer_type, {}).update(_kinds(at, one))
    kinds = {}
    for layer_type, spellings in found.items():
        if len(set(spellings.values())) > 1:
            raise CheckpointError(
                "config.json gives several kinds of rotary embedding "
                f"({', '.join(f'{where} = {kind!r}' for where, kind in spellings.items())}): "
                "make them agree"
            )
        kinds[layer_type] = next(iter(spellings.values()), DEFAULT)
    return kinds


def check_rope(
    part: Mapping[str, Any], computed: Mapping[str, tuple[str, ...]], by: str, instead: str
) -> None:
    """Raise CheckpointError for a kind of rotary embedding that `by` does not compute.

    `computed` are the kinds by layer type, or for ALL of them; layer types that it does not name
    are not looked at. `instead` says what the user can do.
    """
    for layer_type, kind in rope_kinds(part).items():
        allowed = computed.get(layer_type, computed.get(ALL))
        if layer_type == ALL and allowed is None and computed:
            first, *rest = computed.values()
            allowed = tuple(word for word in first if all(word in other for other in rest))
        if allowed is not None and kind not in allowed:
            of = "" if layer_type == ALL else f" in {layer_type} layers"
            raise CheckpointError(
                f"config.json asks for the rotary embedding {kind!r}{of}, and {by} computes only "
                f"{', '.join(map(repr, allowed)) or 'one kind for each type of layer'}: {instead}"
            )


def _kinds(place: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """{spelling: kind} of one object; one that has numbers and no kind is refused."""
    words = {f"{place}.{key}": settings[key] for key in _SPELLINGS if settings.get(key) is not None}
    for where, kind in words.items():
        if not isinstance(kind, str):
            raise CheckpointError(f"config.json has {where} = {kind!r}, expected text")
    unknown = [
        key for key, value in settings.items() if key not in _OF_DEFAULT and value is not None
    ]
    if unknown and set(words.values()) <= {DEFAULT}:
        raise CheckpointError(
            f"config.json has {place}.{unknown[0]} and no kind of rotary embedding that it could "
            f"belong to (looked for {' and '.join(_SPELLINGS)}): add `rope_type`, as the model's "
            "publisher has it"
        )
    return words
