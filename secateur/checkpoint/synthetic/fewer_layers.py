"""The config of the same model with fewer layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.checkpoint.config_check import LAYERS_BY_NUMBER, PER_LAYER
from secateur.checkpoint.config_edit import EXTRA_LAYERS
from secateur.errors import RequestError
from secateur.families.schema import Family


def keep_layers(config: Mapping[str, Any], family: Family, layers: int | None) -> dict[str, Any]:
    """The config with the first `layers` - 1 layers and the last one (None: all).

    The last layer is kept because publishers end on a kind of their own (full attention). Blocks
    that only predict further tokens are counted as none. Raises RequestError for more layers
    than there are.
    """
    had = family.number(config, "layers")
    wanted = had if layers is None else layers
    if not 1 <= wanted <= had:
        raise RequestError(f"{wanted} layers of a model that has {had}: expected 1 to {had}")
    new_number = {old: old for old in range(wanted - 1)} | {had - 1: wanted - 1}
    section, part = family.section(config)
    changed = dict(part)
    for key in family.config["layers"]:
        if key in part:
            changed[key] = wanted
    for key in family.config.get(EXTRA_LAYERS, ()):
        if key in part:
            changed[key] = 0
    for key, value in part.items():
        if PER_LAYER.fullmatch(key) and isinstance(value, list):
            changed[key] = [value[old] for old in new_number]
        elif key == LAYERS_BY_NUMBER and isinstance(value, Mapping):
            # transformers pads these numbers to one width.
            numbered = {int(number): one for number, one in value.items() if number.isdecimal()}
            changed[key] = {
                str(new): numbered[old] for old, new in new_number.items() if old in numbered
            }
        elif key in family.shape.layer_numbers and isinstance(value, list):
            changed[key] = [new_number[old] for old in value if old in new_number]
    return {**config, section: changed} if section else changed
