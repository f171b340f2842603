"""A drop map: which experts a pruned model has, as JSON that a person can read and write.

    {"experts": 32, "layers": {"0": {"keep": [0, 2]}, "1": {"drop": [5]}, ...}}

Every layer with routed experts is named. Every output holds its own drop map
(expert_drop_metadata.json); it can be given to another model of the same shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secateur.errors import PlanError
from secateur.pruning.selection import Keep
from secateur.system.text_files import explain, read_json

DROP_MAP_KEYS = {
    "experts": "experts of a layer of the unpruned model; where it is there, it has to agree",
    "layers": "the layers by number, in quotes",
    "layers.*.keep": "list of the experts to keep",
    "layers.*.drop": "list of the experts to drop; one of the two is enough",
}
"""The keys of a drop map; `*` is the number of a layer. Others are not looked at."""


def drop_map(keep: Keep, experts: int) -> dict[str, Any]:
    """The selection as JSON: per layer the experts kept and those pruned."""
    return {
        "experts": experts,
        "layers": {
            str(layer): {
                "keep": list(kept),
                "drop": sorted(set(range(experts)) - set(kept)),
            }
            for layer, kept in sorted(keep.items())
        },
    }


def read_drop_map(path: Path, experts: int, layers: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Read a drop map: per layer `keep`, `drop`, or both.

    Raises PlanError for a file that is no such JSON, names unknown layers or experts, leaves a
    layer out, or contradicts itself.
    """
    data = read_json(path, "a drop map", PlanError)
    made_for = data.get("experts") if isinstance(data, dict) else None
    if made_for is not None and made_for != experts:
        raise PlanError(
            f"{path} was made for {made_for!r:.20} experts per layer, but the model has {experts}: "
            "name a drop map of this model"
        )
    try:
        entries = {int(layer): entry for layer, entry in data["layers"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(
            f"{path} is no drop map ({explain(error)}): expected "
            '{"layers": {"0": {"drop": [numbers]}, ...}}'
        ) from None
    if set(entries) != set(layers):
        odd = sorted(set(entries) ^ set(layers))
        raise PlanError(
            f"{path} and the model differ in MoE layers {odd[:5]}: the model has "
            f"{len(layers)} ({layers[0]} to {layers[-1]})"
        )
    return {layer: _resolve_layer(path, layer, entries[layer], experts) for layer in layers}


def _resolve_layer(path: Path, layer: int, entry: Any, experts: int) -> tuple[int, ...]:
    every = set(range(experts))
    named: dict[str, set[int]] = {}
    for word in ("keep", "drop"):
        numbers = entry.get(word) if isinstance(entry, dict) else None
        if numbers is None:
            continue
        if not isinstance(numbers, list) or not all(type(n) is int and n in every for n in numbers):
            raise PlanError(
                f"{path}, layer {layer}: {word!r} must list expert numbers 0 to {experts - 1}"
            )
        if len(set(numbers)) < len(numbers):
            raise PlanError(f"{path}, layer {layer}: {word!r} lists an expert twice")
        named[word] = set(numbers)
    if not named:
        raise PlanError(f"{path}, layer {layer}: has neither 'keep' nor 'drop'")
    keep = named.get("keep", every - named.get("drop", set()))
    if "drop" in named and keep != every - named["drop"]:
        raise PlanError(f"{path}, layer {layer}: 'keep' and 'drop' contradict each other")
    return tuple(sorted(keep))
