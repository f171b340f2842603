"""What a family's TOML says of its form in llama.cpp and in mlx-lm: `[gguf]` and `[mlx]`.

A *source* is a list of alternatives, tried in order: a text is a path into the text model's config
section ("rope_parameters.full_attention.rope_theta"; `last` is a list's last item, `{layer}` the
layer's number and `{first:WORD}` the first layer whose `layer_types` entry is WORD), anything else
is a constant.

`rope` (in both) says which kinds of rotary embedding the format computes for the family: a layer
type of `layer_types`, or `all` -> the kinds (`rope.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Source = tuple[Any, ...]


@dataclass(frozen=True)
class AlsoKey:
    """[[also]]: a config key that some readers need, and where its value is found.

    `source` is a dotted path inside the text model's section. With `{layer}` in it, it is looked
    up for every layer whose `layer_types` entry is `layers`; a layer without it has the value of
    the key `otherwise`. The key is added to the text model's section, or to the `top` of the file.
    """

    key: str
    source: str
    layers: str | None = None
    otherwise: str | None = None
    top: bool = False


@dataclass(frozen=True, slots=True)
class KeyRow:
    """[[gguf.key]]: one metadata key of the architecture, and one way to its value.

    `from` is a source, `per_layer` a source by layer type (the value is then an array), `compute`
    an expression, `rule` one of `formats/gguf/metadata.py`. An `optional` key without a value is
    left out, and one that is of other kinds of rotary embedding (`rope`) than the config's. With
    `count` the value is an array of so many.
    """

    key: str
    kind: Literal["u32", "i32", "u64", "i64", "f32", "f64", "bool", "string"]
    source: Source = field(default=(), metadata={"key": "from", "one_or_many": True})
    per_layer: Mapping[str, Any] = field(default_factory=dict)
    optional: bool = False
    count: int | None = None
    compute: str | None = field(default=None, metadata={"expression": True})
    rule: Literal["yarn_attention"] | None = None
    rope: tuple[str, ...] = ()

    def source_of(self, layer_type: str) -> Source:
        """The source for layers of a type that `per_layer` names."""
        value = self.per_layer[layer_type]
        return tuple(value) if isinstance(value, list) else (value,)


@dataclass(frozen=True, slots=True)
class GeneratedRow:
    """[[gguf.generate]]: a tensor that no checkpoint holds, computed by a rule of
    `formats/gguf/tensors.py` from numbers of the config, `sources` by the rule's argument."""

    name: str
    rule: Literal["proportional_rope"]
    sources: Mapping[str, Any]

    def source_of(self, argument: str) -> Source:
        """The source of one of the rule's arguments."""
        value = self.sources[argument]
        return tuple(value) if isinstance(value, list) else (value,)


@dataclass(frozen=True, slots=True)
class TokenizerRules:
    """[gguf.tokenizer]: how llama.cpp names and treats the family's tokenizer.

    `model` and `pre` are its tokenizer.ggml.model and .pre, by which llama.cpp splits text before
    merging; `split` is the regular expression of tokenizer.json that they stand for (None: no
    expression), `byte_fallback` what its model must say. `score` is written for every token.
    `control` says which tokens are control tokens: those that tokenizer_config.json names
    ("named"), or all added tokens that are special or look so ("added"). `visible` are special
    tokens that are rendered, because llama.cpp's chat parser reads them. `pieces` is the name of
    a SentencePiece model's file, which is preferred where it is there. With `from_files`, whether
    a text begins with a special token or a space is read from the tokenizer's files, and
    `add_bos` and `add_space_prefix` do not count.
    """

    model: str
    pre: str | None = None
    split: str | None = None
    byte_fallback: bool = False
    control: Literal["named", "added"] = "named"
    score: float | None = None
    add_bos: bool | None = None
    add_space_prefix: bool | None = None
    visible: tuple[str, ...] = ()
    pieces: str | None = None
    from_files: bool = False


@dataclass(frozen=True, slots=True)
class GgufRules:
    """[gguf]: a family's form in llama.cpp. Its keys:

    architecture  llama.cpp's name for it
    tokenizer     TokenizerRules
    quantize      fields of llama_mixes.ModelTraits that single architectures set: a value, or
                  an expression of the model's numbers
    expect        "config path" -> allowed values; a config without the path is allowed
    rope          kinds of rotary embedding that the architecture computes
    key           KeyRow, in the order of the file
    generate      GeneratedRow
    type          general.type
    """

    architecture: str
    tokenizer: TokenizerRules
    quantize: Mapping[str, Any] = field(default_factory=dict)
    expect: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    rope: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keys: tuple[KeyRow, ...] = field(default=(), metadata={"key": "key"})
    generated: tuple[GeneratedRow, ...] = field(default=(), metadata={"key": "generate"})
    type: str = "model"


@dataclass(frozen=True, slots=True)
class MlxRules:
    """[mlx]: a family's form in mlx-lm. Its keys:

    prefix   model_type -> what mlx-lm puts before the running model's names
    require  keys of the text model's section without which mlx-lm does not load, or takes
             another default than transformers
    expect   "config path" -> values that mlx-lm computes; absent and null are allowed
    rope     kinds of rotary embedding that it computes
    also     [[mlx.also]]: keys that mlx-lm reads and transformers writes elsewhere
    """

    prefix: Mapping[str, str]
    require: tuple[str, ...] = ()
    expect: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    rope: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    also: tuple[AlsoKey, ...] = ()
