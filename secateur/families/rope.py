"""Which kind of rotary embedding a config asks for, in any spelling that transformers reads.

It stands in `rope_parameters` (transformers 5) or `rope_scaling`, for all layers or by layer type,
and its kind under `rope_type` or the older `type`. Without either the kind is "default".
Source: transformers 5.23, RotaryEmbeddingConfigMixin.standardize_rope_params.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from secateur.errors import CheckpointError

ALL = "all"
"""Stands for every layer type where a config does not tell them apart."""
DEFAULT = "default"
SCALED = ("linear", "yarn")
"""Kinds whose numbers are understood (`scaling_of`)."""

_PLACES = ("rope_parameters", "rope_scaling")
_SPELLINGS = ("rope_type", "type")
_SHARED = {"rope_theta", "partial_rotary_factor"}
"""Keys that all kinds have."""
_OF_DEFAULT = {*_SPELLINGS, *_SHARED}
"""Keys that mean something without scaling; any other asks for a scaling of unknown kind."""


_SCALES = ("mscale", "mscale_all_dim")
_NUMBERS = {
    "factor": 1.0, "original_max_position_embeddings": 1.0, "attention_factor": 1e-6,
    **dict.fromkeys(_SCALES, 0.0),
}  # fmt: skip
"""The numbers of a scaling, and the least that each may be; all but the first may be missing."""


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


def scaling_of(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a config whose positions are scaled alike in all layers: transformers takes
    `rope_scaling` where it is there, and looks no further.

    Raises CheckpointError where there are others beside them, or a number that transformers would
    warn of or fail with.
    """
    given = [part[place] for place in _PLACES if part.get(place)]
    if len(given) > 1 and given[0] != given[1]:
        raise CheckpointError(
            f"config.json has other settings in {_PLACES[0]} than in {_PLACES[1]}: remove one of "
            "the two, as the model's publisher has it"
        )
    settings: Mapping[str, Any] = given[0] if given else {}
    for key, least in _NUMBERS.items():
        value: Any = settings.get(key)
        if value is None and key != "factor":
            continue
        if type(value) not in (int, float) or not least <= value < math.inf:
            raise CheckpointError(
                f"config.json asks for a scaled rotary embedding with {key} = {value!r:.80}, "
                f"expected a number from {least:g} on: correct it as the model's publisher has it"
            )
    if not isinstance(settings.get("truncate", True), bool):
        raise CheckpointError(
            "config.json asks for a scaled rotary embedding with truncate = "
            f"{settings['truncate']!r:.80}, expected true or false"
        )
    return settings


def yarn_attention(settings: Mapping[str, Any]) -> float:
    """What cosines and sines are multiplied with under YaRN, as transformers does it
    (_compute_yarn_parameters)."""
    given = settings.get("attention_factor")
    if given is not None:
        return float(given)
    factor: float = settings["factor"]
    scales: list[Any] = [settings.get(key) for key in _SCALES]
    if all(scales):
        wanted, had = (yarn_scale(factor, scale) for scale in scales)
        return wanted / had
    return yarn_scale(factor)


def yarn_scale(factor: float, by: float = 1.0) -> float:
    """By how much attention is sharper where positions are `factor` times as dense: the YaRN paper
    (arXiv 2309.00071), equation 22."""
    return 0.1 * by * math.log(factor) + 1.0


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
