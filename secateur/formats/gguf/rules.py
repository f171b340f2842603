"""What a family's TOML says about its GGUF form: the `[gguf]` table, checked and typed.

    [gguf]            architecture: llama.cpp's name for it; `type`: general.type, if no "model"
    [gguf.tokenizer]  the fields of TokenizerRules
    [gguf.quantize]   fields of llama_mixes.ModelTraits that single architectures set: a value, or
                      an expression of its numbers
    [gguf.expect]     "config path" = [allowed values]; a config without the path is allowed
    [[gguf.key]]      one metadata key: key, kind, and `from`, `per_layer` or `compute`, an
                      expression (expected_tensors.py); maybe `optional`, or `count`: it is an array
    [[gguf.generate]] one tensor that no checkpoint holds: name, rule, and the rule's sources

A source is a list of alternatives, tried in order: a string is a path into the text model's
config section ("rope_parameters.full_attention.rope_theta"; `last` is a list's last item,
`{layer}` the layer's number and `{first:WORD}` the first layer whose `layer_types` entry is WORD),
anything else is a constant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from secateur.errors import CheckpointError, FamilyError
from secateur.families.schema import Family

Source = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One metadata key of the architecture: `from` one value, `per_layer` by layer type, or what
    `compute` gives. With `count` it is an array of so many."""

    key: str
    kind: str
    source: Source
    per_layer: Mapping[str, Source]
    optional: bool
    count: int | None = None
    compute: str | None = None


@dataclass(frozen=True, slots=True)
class GeneratedRow:
    """A tensor that is computed from the config by a rule of `gguf_tensors.py`."""

    name: str
    rule: str
    sources: Mapping[str, Source]


@dataclass(frozen=True, slots=True)
class TokenizerRules:
    """How llama.cpp names and treats the family's tokenizer.

    `model` and `pre` are its tokenizer.ggml.model and .pre, by which llama.cpp splits text before
    merging; `split` is the regular expression of tokenizer.json that they stand for (None: no
    expression), `byte_fallback` what its model must say. `score` is written for every token.
    `kinds` says which tokens are control tokens: those that tokenizer_config.json names
    ("named"), or all added tokens that are special or look so ("added"). `visible` are special
    tokens that are rendered, because llama.cpp's chat parser reads them. `pieces` is the name of
    the file of a SentencePiece model, which counts where it is there (`gguf_pieces.py`). `told`:
    what is added to a text is not `add_bos` and `add_space_prefix`, but what the files say.
    """

    model: str
    pre: str | None = None
    split: str | None = None
    byte_fallback: bool = False
    kinds: Literal["named", "added"] = "named"
    score: float | None = None
    add_bos: bool | None = None
    add_space_prefix: bool | None = None
    visible: tuple[str, ...] = ()
    pieces: str | None = None
    told: bool = False


@dataclass(frozen=True, slots=True)
class GgufRules:
    """The whole `[gguf]` table of a family."""

    architecture: str
    tokenizer: TokenizerRules
    quantize: Mapping[str, Any]
    expect: Mapping[str, Sequence[Any]]
    keys: tuple[KeyRow, ...]
    generated: tuple[GeneratedRow, ...]
    type: str = "model"


def gguf_rules(family: Family) -> GgufRules:
    """The family's rules. Raises FamilyError if its TOML has no [gguf] table."""
    table = family.gguf
    if not table:
        raise FamilyError(
            f"the family {family.name!r} has no [gguf] table, so no GGUF can be made of it here: "
            "write safetensors (--to safetensors) and give them to llama.cpp's "
            "convert_hf_to_gguf.py and llama-quantize, or add the table to "
            f"checkpoint/families/{family.name}.toml"
        )
    words = dict(table["tokenizer"])
    words["visible"] = tuple(words.get("visible", ()))
    return GgufRules(
        architecture=table["architecture"],
        tokenizer=TokenizerRules(**words),
        quantize=table.get("quantize", {}),
        expect=table.get("expect", {}),
        keys=tuple(_key(row) for row in table.get("key", ())),
        generated=tuple(_generated(row) for row in table.get("generate", ())),
        type=table.get("type", "model"),
    )


def find(config: Mapping[str, Any], source: Source, layer: int | None = None) -> Any:
    """The first alternative that the config section holds; None when it holds none."""
    for alternative in source:
        if not isinstance(alternative, str):
            return alternative
        value: Any = config
        for step in _filled(config, alternative, layer).split("."):
            value = _step(value, step)
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


def _step(value: Any, step: str) -> Any:
    if isinstance(value, list):
        return value[-1] if value and step == "last" else None
    if not isinstance(value, Mapping):
        return None
    if step.isdigit():
        # transformers pads layer numbers to one width: layer 5 of 30 is "05".
        step = next((key for key in value if key.isdigit() and int(key) == int(step)), step)
    return value.get(step)


def _filled(config: Mapping[str, Any], path: str, layer: int | None) -> str:
    kinds = list(config.get("layer_types", ()))

    def first(match: re.Match[str]) -> str:
        return str(kinds.index(match[1]) if match[1] in kinds else "none")

    return re.sub(r"\{first:(\w+)\}", first, path).replace("{layer}", str(layer))


def _source(value: Any) -> Source:
    return tuple(value) if isinstance(value, list) else (value,)


def _key(row: Mapping[str, Any]) -> KeyRow:
    return KeyRow(
        key=row["key"],
        kind=row["kind"],
        source=_source(row["from"]) if "from" in row else (),
        per_layer={kind: _source(value) for kind, value in row.get("per_layer", {}).items()},
        optional=row.get("optional", False),
        count=row.get("count"),
        compute=row.get("compute"),
    )


def _generated(row: Mapping[str, Any]) -> GeneratedRow:
    sources = {key: _source(value) for key, value in row.items() if key not in ("name", "rule")}
    return GeneratedRow(row["name"], row["rule"], sources)
