"""A model's GGUF metadata, as llama.cpp's converter writes it, from its config and family.

Left out on purpose, against convert_hf_to_gguf.py: guesses from the folder's name and the model
card (general.basename, .license, .tags, .base_model...): the caller gives what it knows; and
tokenizer.ggml.add_sep_token, which the converter reads out of a template's shape and which means
nothing to a text generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from secateur.checkpoint.config_check import show
from secateur.checkpoint.expected_tensors import Facts
from secateur.errors import CheckpointError, FormatError
from secateur.families.format_rules import GgufRules, KeyRow
from secateur.families.rope import (
    ALL,
    SCALED,
    check_rope,
    rope_kinds,
    scaling_of,
    yarn_attention,
    yarn_scale,
)
from secateur.families.schema import Family
from secateur.formats.gguf.container import (
    STRING,
    Scalar,
    TensorInfo,
    Value,
    metadata_bytes,
)
from secateur.formats.gguf.rules import find, gguf_rules, require
from secateur.system.text_files import read_json

QUANTIZATION_VERSION = 2
"""ggml's GGML_QNT_VERSION, that of every block layout in `types.py`."""

_SAMPLING = (
    ("top_k", "top_k", "i32"),
    ("top_p", "top_p", "f32"),
    ("min_p", "min_p", "f32"),
    ("temperature", "temp", "f32"),
    ("repetition_penalty", "penalty_repeat", "f32"),
)
"""generation_config.json key -> general.sampling key and kind: llama.cpp's default sampling."""

_KINDS = {
    **dict.fromkeys(("u32", "u64"), "a whole number from 0 on"),
    **dict.fromkeys(("i32", "i64"), "a whole number"),
    **dict.fromkeys(("f32", "f64"), "a number"),
    "bool": "true or false",
    "string": "a text",
}
"""What a value of a kind is, for people."""


def model_metadata(
    family: Family,
    config: Mapping[str, Any],
    infos: Sequence[TensorInfo],
    name: str,
    file_type: int,
) -> dict[str, Value]:
    """The keys that describe the model, without its tokenizer, in the converter's order.

    `config` is config.json of what is written (the pruned expert count), `infos` its tensors,
    `file_type` llama.cpp's number for the mix. Raises CheckpointError if the config lacks a value
    or has one that llama.cpp's graph for this architecture does not compute.
    """
    rules = gguf_rules(family)
    _, part = family.section(config)
    for path, allowed in rules.expect.items():
        value = find(part, (path,))
        if value is not None and value not in allowed:
            known = ", ".join(map(repr, allowed)) or "models without it"
            raise CheckpointError(
                f"config.json has {path} = {value!r}, and llama.cpp's {rules.architecture} "
                f"computes only {known}: write safetensors instead"
            )
    by = f"llama.cpp's {rules.architecture}, as written here,"
    check_rope(part, rules.rope, by, "write safetensors instead")
    if rope_kinds(part).get(ALL) in SCALED:
        scaling_of(part)
    metadata = {
        "general.architecture": Value(STRING, rules.architecture),
        "general.type": Value(STRING, rules.type),
        "general.name": Value(STRING, name),
        "general.size_label": Value(STRING, size_label(infos)),
        "general.file_type": Value("u32", file_type),
        "general.quantization_version": Value("u32", QUANTIZATION_VERSION),
    }
    metadata |= _architecture_keys(rules, part, Facts(family, config))
    return metadata


def first_kv_heads(family: Family, config: Mapping[str, Any]) -> int:
    """Key and value heads of the first layer, as a GGUF of the model says them: llama-quantize's
    rules look at no other layer."""
    _, part = family.section(config)
    row = next((r for r in gguf_rules(family).keys if r.key == "attention.head_count_kv"), None)
    if row is not None and (not row.per_layer or part.get("layer_types")):
        value = _value_of(row, part, Facts(family, config))
        first = value[0] if isinstance(value, tuple) else value
        if isinstance(first, int):
            return first
    found = family.find(config, "kv_heads")
    return found[1] if found else family.number(config, "heads")


def sampling_metadata(folder: Path) -> dict[str, Value]:
    """general.sampling.* from the folder's generation_config.json; empty without that file."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    settings = read_json(path, "settings of generation", CheckpointError)
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: holds a {type(settings).__name__}, expected an object")
    return {
        f"general.sampling.{key}": _checked(Value(kind, settings[name]), name, path)
        for name, key, kind in _SAMPLING
        if settings.get(name) is not None
    }


def size_label(infos: Sequence[TensorInfo]) -> str:
    """ "128x2.6B": experts, and the parameters of the rest with one expert; "1.2B" if dense."""
    experts, shared, one_expert = 0, 0, 0
    for info in infos:
        size = math.prod(info.shape)
        if "_exps." in info.name and len(info.shape) >= 3:
            experts = info.shape[-3]
            one_expert += size // experts
        else:
            shared += size
    count = shared + one_expert
    unit, suffix = next(
        (pair for pair in ((1e12, "T"), (1e9, "B"), (1e6, "M")) if count > pair[0]), (1e3, "K")
    )
    digits = max(2 - len(str(round(count / unit)).lstrip("0")), 0)
    pretty = f"{count / unit:.{digits}f}{suffix}"
    return f"{experts}x{pretty}" if experts else pretty


def _architecture_keys(rules: GgufRules, part: Mapping[str, Any], facts: Facts) -> dict[str, Value]:
    metadata = {}
    for row in rules.keys:
        value = _value_of(row, part, facts)
        if value is not None:
            metadata[f"{rules.architecture}.{row.key}"] = Value(row.kind, value)
    return metadata


def _value_of(
    row: KeyRow, part: Mapping[str, Any], facts: Facts
) -> Scalar | tuple[Scalar, ...] | None:
    if row.rope and rope_kinds(part).get(ALL) not in row.rope:
        return None
    if row.rule is not None:
        found = _RULES[row.rule](part)
        return None if found is None else _of_kind(row, found)
    if row.compute is not None:
        return _of_kind(row, facts.value(row.compute))
    return _per_layer(row, part) if row.per_layer else _single(row, part)


def _yarn_attention(part: Mapping[str, Any]) -> float | None:
    """What llama.cpp has to multiply cosines and sines with besides what follows from the factor
    alone, which it does by itself; None: nothing."""
    settings = scaling_of(part)
    found = yarn_attention(settings) / yarn_scale(settings["factor"])
    return None if np.float32(found) == 1 else found


_RULES: Mapping[str, Callable[[Mapping[str, Any]], float | None]] = {
    "yarn_attention": _yarn_attention
}
"""Rules that a [[gguf.key]] row may name."""


def _single(row: KeyRow, part: Mapping[str, Any]) -> Scalar | tuple[Scalar, ...] | None:
    value = find(part, row.source) if row.optional else require(part, row.source, row.key)
    if value is None:
        return None
    if row.count is None:
        return _of_kind(row, value)
    if not isinstance(value, list) or len(value) != row.count:
        raise CheckpointError(
            f"the model's settings give {show(value)} for {row.key}, expected {row.count} numbers: "
            "mend the file, or take the publisher's"
        )
    return tuple(_of_kind(row, item) for item in value)


def _per_layer(row: KeyRow, part: Mapping[str, Any]) -> tuple[Scalar, ...]:
    values = []
    for layer, kind in enumerate(require(part, ("layer_types",), "layer_types")):
        if kind not in row.per_layer:
            raise CheckpointError(
                f"config.json has layer type {kind!r} in layer {layer}, {row.key} is known for "
                f"{', '.join(row.per_layer)}"
            )
        value = require(part, row.source_of(kind), row.key, layer)
        values.append(_of_kind(row, value))
    return tuple(values)


def _of_kind(row: KeyRow, value: Any) -> Scalar:
    """The value itself, if it is one scalar of the row's kind."""
    _checked(Value(row.kind, value), row.key, "config.json")
    return cast(Scalar, value)


def _checked(value: Value, what: str, source: object) -> Value:
    """The value. Raises CheckpointError where it is not one scalar of its kind, naming its file."""
    try:
        if isinstance(value.value, tuple):
            raise FormatError("an array")
        metadata_bytes({what: value})
    except FormatError:
        raise CheckpointError(
            f"{source} gives {show(value.value)} for {what}, expected {_KINDS[value.kind]}: "
            "correct it as the model's publisher has it"
        ) from None
    return value
