"""Dotted paths into a config.json: `rope_parameters.full_attention.rope_theta`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def follow_path(config: Any, path: str, layer: int | None = None) -> Any:
    """The value at a path; None where there is none.

    `{layer}` stands for `layer`. transformers pads layer numbers to one width, so that layer 5 of
    30 may be "05": a step of digits finds it however it is padded. Of a list `last` is the last
    entry.
    """
    value = config
    for step in path.replace("{layer}", str(layer)).split("."):
        value = _descend(value, step)
    return value


def _descend(value: Any, step: str) -> Any:
    if isinstance(value, list):
        return value[-1] if value and step == "last" else None
    if not isinstance(value, Mapping):
        return None
    if step.isdigit():
        step = next((key for key in value if key.isdigit() and int(key) == int(step)), step)
    return value.get(step)
