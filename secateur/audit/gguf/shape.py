"""The shape that an audit computes from: the tensors of a GGUF with any number of experts.

It comes from a config (`shape_of_model`) or from a file's own header (`shape_of_file`); what
follows from it, sizes, types, counts, is then the planner's own arithmetic.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import CheckpointError, FormatError
from secateur.families.registry import families
from secateur.families.schema import Family
from secateur.formats.gguf.container import (
    Metadata,
    TensorInfo,
    alignment_of,
    header_bytes,
    header_parts,
    padded,
)
from secateur.formats.gguf.metadata import first_kv_heads, model_metadata
from secateur.formats.gguf.reader import GgufFile
from secateur.formats.gguf.rules import gguf_rules
from secateur.formats.gguf.tensors import gguf_tensors, unquantized_type
from secateur.formats.gguf.tokenizer import has_tokenizer, tokenizer_metadata
from secateur.recipes.assign import Target
from secateur.recipes.llama_mixes import ModelTraits, category_of, model_traits

GENERATED = "generated"
"""The role of tensors that no checkpoint holds."""

_EXTRA_ROLES = ("vision", "audio")
"""Roles of towers in addition to the text model."""

_TOKEN_BYTES = (18, 96)
"""Bounds of what a vocabulary's entry takes in a header: length, text, score, kind, and none to two
merges (each a length and two pieces). The 262,144 entries of the real model take 60 each."""


@dataclass(frozen=True)
class Bytes:
    """Bytes of a file, or the bounds of them where its vocabulary is not known."""

    low: int
    high: int


@dataclass(frozen=True)
class Shape:
    """A model as a GGUF would hold it, before quantization.

    `tensors` are those with `experts` experts, `axes` the axis of a tensor that experts count,
    `matches` role and layer by tensor name. `kv` is the bytes of a header's keys and values.
    `extra` is what the checkpoint holds in addition to the text model, in parameters: None when the
    config describes no tower though the family may have one.
    """

    architecture: str
    family: Family | None
    experts: int
    top_k: int
    layers: int
    tensors: tuple[TensorInfo, ...] = field(repr=False)
    axes: Mapping[str, int] = field(repr=False)
    matches: Mapping[str, Target] = field(repr=False)
    kv: Bytes
    alignment: int
    heads: int
    kv_heads: int
    numbers: Mapping[str, int]
    extra: int | None
    config: Mapping[str, Any] | None = field(default=None, repr=False)
    vocabulary: frozenset[str] = field(default=frozenset(), repr=False)

    def with_experts(self, experts: int) -> tuple[TensorInfo, ...]:
        """The tensors with another number of experts per layer."""
        if experts == self.experts:
            return self.tensors
        return tuple(self._resized(info, experts) for info in self.tensors)

    def _resized(self, info: TensorInfo, experts: int) -> TensorInfo:
        if info.name not in self.axes:
            return info
        shape = list(info.shape)
        shape[self.axes[info.name]] = experts
        return replace(info, shape=tuple(shape))

    def traits(self, experts: int) -> ModelTraits:
        """What llama-quantize's rules ask of the model."""
        rules = gguf_rules(self.family).quantize if self.family is not None else {}
        return model_traits(self.layers, experts, self.heads, self.kv_heads, rules)

    def targets(self) -> list[Target]:
        """Role and layer of every tensor, in order."""
        return [self.matches[info.name] for info in self.tensors]

    def parameters(self, experts: int) -> int:
        """Parameters of the text model: what a checkpoint holds of it."""
        return sum(self.elements(experts).values())

    def elements(self, experts: int) -> dict[str, int]:
        """{tensor: parameters}, without what is generated."""
        return {
            info.name: math.prod(info.shape)
            for info in self.with_experts(experts)
            if self.matches[info.name].role != GENERATED
        }

    def active(self, experts: int) -> int:
        """Parameters of the text model that a token meets."""
        elements = self.elements(experts)
        routed = sum(n for name, n in elements.items() if self.role(name) == "expert")
        return sum(elements.values()) - routed + routed * self.top_k // experts

    def role(self, name: str) -> str:
        """The first word of a tensor's role."""
        return self.matches[name].role.partition(".")[0]

    def file_bytes(self, typed: Sequence[TensorInfo]) -> Bytes:
        """Bytes of a GGUF file with these tensors."""
        infos = sum(len(part) for part in header_parts({}, typed)) - _BARE
        data = sum(padded(info.nbytes, self.alignment) for info in typed)
        return Bytes(
            *(padded(bound + infos, self.alignment) + data for bound in (self.kv.low, self.kv.high))
        )


_BARE = header_bytes({}, ())


def shape_of_model(checkpoint: Checkpoint, vocabulary: Metadata | None = None) -> Shape:
    """The shape of a checkpoint, of which a config is enough.

    `vocabulary` is the metadata of a GGUF of this model, whose bytes then are exact. Raises
    FamilyError for a family without a GGUF form, CheckpointError for a config that cannot be.
    """
    family = checkpoint.family
    shapes = {
        name: spec.shape
        for name, spec in checkpoint.specs.items()
        if checkpoint.matches[name].row.gguf
    }
    tensors = gguf_tensors(family, checkpoint.config, shapes)
    infos = tuple(tensor.info for tensor in tensors)
    axes, matches = {}, {}
    for tensor in tensors:
        if not tensor.sources:
            matches[tensor.info.name] = Target(tensor.info.name, GENERATED, None)
            continue
        place = checkpoint.matches[tensor.sources[0]]
        matches[tensor.info.name] = Target(tensor.info.name, place.role, place.layer)
        if place.expert is not None:
            axes[tensor.info.name] = 0
        elif place.row.expert_axis is not None:
            axes[tensor.info.name] = place.row.expert_axis
    heads = family.number(checkpoint.config, "heads")
    vocabulary = vocabulary or _vocabulary_of(checkpoint, infos)
    return Shape(
        architecture=gguf_rules(family).architecture,
        family=family,
        experts=checkpoint.experts,
        top_k=checkpoint.top_k,
        layers=checkpoint.layers,
        tensors=infos,
        axes=axes,
        matches=matches,
        kv=_kv(vocabulary, infos),
        alignment=alignment_of(vocabulary or {}),
        heads=heads,
        kv_heads=first_kv_heads(family, checkpoint.config),
        numbers=_numbers(family, checkpoint.config),
        extra=_extra(checkpoint),
        config=checkpoint.config,
        vocabulary=_tokens(vocabulary),
    )


def shape_of_file(gguf: GgufFile) -> Shape:
    """The shape that a GGUF's own header gives.

    Raises FormatError when the header does not describe a model of tensors.
    """
    architecture = str(gguf.value("general.architecture"))
    experts = _hyper(gguf, "expert_count", 0)
    # llama.cpp has one architecture for some families and for models without experts.
    family = family_of_architecture(architecture) if experts else None
    if not gguf.tensors:
        raise FormatError(
            f"{gguf.path}: holds a vocabulary and no tensors: name the model's config with "
            "--config to compute sizes"
        )
    axes, matches = {}, {}
    for info in gguf.tensors.values():
        matches[info.name], axis = _place(info, family)
        if axis is not None:
            axes[info.name] = axis
    tensors = tuple(
        replace(info, type=unquantized_type(info.name, info.shape, "F16"))
        for info in gguf.tensors.values()
    )
    heads = _hyper(gguf, "attention.head_count", 1)
    return Shape(
        architecture=architecture,
        family=family,
        experts=experts,
        top_k=_hyper(gguf, "expert_used_count", 0),
        layers=_hyper(gguf, "block_count", 0),
        tensors=tensors,
        axes=axes,
        matches=matches,
        kv=_kv(gguf.metadata, tensors),
        alignment=gguf.alignment,
        heads=heads,
        kv_heads=_hyper(gguf, "attention.head_count_kv", heads),
        numbers={word: value for word, key in _KEYS.items() if (value := _hyper(gguf, key, 0))},
        extra=None if family is not None and _may_have_towers(family) else 0,
        vocabulary=_tokens(gguf.metadata),
    )


_KEYS = {
    "layers": "block_count",
    "hidden": "embedding_length",
    "experts": "expert_count",
    "top_k": "expert_used_count",
    "expert_width": "expert_feed_forward_length",
    "dense_width": "feed_forward_length",
    "context": "context_length",
    "window": "attention.sliding_window",
}
"""What a card may state -> the key of a GGUF that says it."""


def family_of_architecture(architecture: str) -> Family | None:
    """The family whose GGUF has this architecture; None when we know none."""
    known = ((family, family.gguf) for family in families())
    return next((f for f, gguf in known if gguf and gguf.architecture == architecture), None)


def _place(info: TensorInfo, family: Family | None) -> tuple[Target, int | None]:
    """(role and layer, expert axis) of a GGUF's tensor by its name."""
    named = ((row, name) for row in (family.rows if family else ()) for name in row.gguf)
    for row, name in named:
        pattern = re.escape(name).replace(re.escape("{layer}"), r"(\d+)")
        if found := re.fullmatch(pattern, info.name):
            layer = int(found[1]) if found.groups() else None
            return Target(info.name, row.role, layer), 0 if row.per_expert else row.expert_axis
    found = re.match(r"blk\.(\d+)\.", info.name)
    layer = int(found[1]) if found else None
    if "_exps." in info.name:
        return Target(info.name, f"expert.{category_of(info.name)}", layer), 0
    if "ffn_gate_inp." in info.name:
        return Target(info.name, "router", layer), 0 if len(info.shape) > 1 else None
    generated = found is None and info.name.startswith("rope_")
    role = GENERATED if generated else category_of(info.name)
    return Target(info.name, role, layer), None


def _hyper(gguf: GgufFile, key: str, default: int) -> int:
    """A hyperparameter of the architecture; the first layer's where it differs by layer."""
    architecture = gguf.value("general.architecture")
    held = gguf.metadata.get(f"{architecture}.{key}")
    if held is None:
        return default
    value = held.value[0] if isinstance(held.value, tuple) and held.value else held.value
    if not isinstance(value, int):
        raise FormatError(f"{gguf.path}: {architecture}.{key} is {value!r}, expected a number")
    return value


def _numbers(family: Family, config: Mapping[str, Any]) -> dict[str, int]:
    """What a card may state of a model, by the family's words for it."""
    _, part = family.section(config)
    words = ("layers", "hidden", "experts", "top_k", "expert_width", "dense_width", "vocab")
    numbers = {word: found[1] for word in words if (found := family.find(config, word))}
    for word, key in (("context", "max_position_embeddings"), ("window", "sliding_window")):
        if isinstance(part.get(key), int):
            numbers[word] = part[key]
    return numbers


def _extra(checkpoint: Checkpoint) -> int | None:
    if checkpoint.shape_only:
        return None if _may_have_towers(checkpoint.family) else 0
    return sum(
        spec.elements
        for name, spec in checkpoint.specs.items()
        if checkpoint.matches[name].role.partition(".")[0] in _EXTRA_ROLES
    )


def _may_have_towers(family: Family) -> bool:
    return any(row.role.partition(".")[0] in _EXTRA_ROLES for row in family.rows)


def _vocabulary_of(checkpoint: Checkpoint, infos: Sequence[TensorInfo]) -> Metadata | None:
    """The metadata that a GGUF of the checkpoint would have; None without its tokenizer."""
    rules = gguf_rules(checkpoint.family)
    if not has_tokenizer(checkpoint.path, rules.tokenizer):
        return None
    rows = next(info.shape[0] for info in infos if info.name == "token_embd.weight")
    try:
        return {
            **model_metadata(checkpoint.family, checkpoint.config, infos, checkpoint.name, 0),
            **tokenizer_metadata(checkpoint.path, checkpoint.config, rules.tokenizer, rows),
        }
    except CheckpointError:
        return None


def _kv(metadata: Metadata | None, infos: Sequence[TensorInfo]) -> Bytes:
    if metadata is not None:
        size = header_bytes(metadata, ())
        return Bytes(size, size)
    rows = next((info.shape[0] for info in infos if info.name == "token_embd.weight"), 0)
    return Bytes(rows * _TOKEN_BYTES[0], rows * _TOKEN_BYTES[1])


def _tokens(metadata: Metadata | None) -> frozenset[str]:
    held = (metadata or {}).get("tokenizer.ggml.tokens")
    if held is None or not isinstance(held.value, tuple):
        return frozenset()
    return frozenset(str(token) for token in held.value)
