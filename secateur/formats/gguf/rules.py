"""A family's rules for GGUF, and how their sources are looked up in a config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from secateur.errors import CheckpointError, FamilyError
from secateur.families.config_paths import follow_path
from secateur.families.format_rules import GgufRules, Source
from secateur.families.schema import Family


def gguf_rules(family: Family) -> GgufRules:
    """The family's rules. Raises FamilyError if its TOML has no [gguf] table."""
    if family.gguf is None:
        raise FamilyError(
            f"the family {family.name!r} has no [gguf] table, so no GGUF can be made of it here: "
            "write safetensors (--to safetensors) and give them to llama.cpp's "
            f"convert_hf_to_gguf.py and llama-quantize, or add the table to {family.file}"
        )
    return family.gguf


def find(config: Mapping[str, Any], source: Source, layer: int | None = None) -> Any:
    """The first alternative that the config section holds; None when it holds none."""
    for alternative in source:
        if not isinstance(alternative, str):
            return alternative
        value = follow_path(config, _fill(config, alternative), layer)
        if value is not None:
            return value
    return None


def require(config: Mapping[str, Any], source: Source, what: str, layer: int | None = None) -> Any:
    """As `find`, but raises CheckpointError when the config holds none of the alternatives."""
    value = find(config, source, layer)
    if value is None:
        at = "" if layer is None else f" of layer {layer}"
        raise CheckpointError(
            f"config.json gives no {what}{at}: looked for {', '.join(map(str, source))}"
        )
    return value


def _fill(config: Mapping[str, Any], path: str) -> str:
    """The path with {first:KIND} replaced by the number of the first layer of that kind."""
    kinds = list(config.get("layer_types") or ())

    def first(match: re.Match[str]) -> str:
        return str(kinds.index(match[1]) if match[1] in kinds else "none")

    return re.sub(r"\{first:(\w+)\}", first, path)
