"""Drop maps: which experts a pruned model has, as JSON that a person can read and write.

{"experts": 32, "layers": {"0": {"keep": [0, 2], "drop": [1, 3]}, ...}}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secateur.errors import PlanError
from secateur.pruning.selection import Keep


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
    try:
        data = json.loads(path.read_text("utf-8"))
        entries = {int(layer): entry for layer, entry in data["layers"].items()}
    except OSError as error:
        raise PlanError(f"cannot read drop map {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(
            f"{path} is no drop map ({_reason(error)}): expected "
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
        named[word] = set(numbers)
    if not named:
        raise PlanError(f"{path}, layer {layer}: has neither 'keep' nor 'drop'")
    keep = named.get("keep", every - named.get("drop", set()))
    if "drop" in named and keep != every - named["drop"]:
        raise PlanError(f"{path}, layer {layer}: 'keep' and 'drop' contradict each other")
    return tuple(sorted(keep))


def _reason(error: Exception) -> str:
    """Why a file is no drop map, without its content."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} in line {error.lineno}"
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    return "its layers are not as they should be"
