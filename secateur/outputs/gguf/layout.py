"""The GGUF of a pruned checkpoint, decided: metadata, tensors, types, exact bytes.

llama.cpp's converter and llama-quantize in one: what the first would write in 16 bits
(formats.gguf.tensors), typed as the second would type it (recipes.llama_types). Reads the
tokenizer and the config, no weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from secateur.checkpoint.config_edit import with_experts
from secateur.checkpoint.reader import Checkpoint
from secateur.errors import PlanError
from secateur.formats.ggml.types import TYPES
from secateur.formats.gguf.container import STRING, Metadata, TensorInfo, Value, file_bytes
from secateur.formats.gguf.metadata import first_kv_heads, model_metadata
from secateur.formats.gguf.naming import file_name
from secateur.formats.gguf.padding import NO_PADDING
from secateur.formats.gguf.provenance import origin_metadata, rounded_by_feedback, written_by
from secateur.formats.gguf.rules import gguf_rules
from secateur.formats.gguf.split import GgufPart, parts
from secateur.formats.gguf.tensors import GgufTensor, gguf_tensors
from secateur.outputs.gguf.padding import (
    Widths,
    all_widths,
    padded_config,
    padded_tensors,
    padding_reason,
    widths_needed,
)
from secateur.outputs.gguf.tokenizer_keys import TokenizerKeys, tokenizer_keys
from secateur.planning.document import Action, PlannedTensor
from secateur.planning.imatrix_policy import Facts
from secateur.pruning.expert_slices import select_experts
from secateur.pruning.selection import Keep
from secateur.recipes.assign import Target, assign
from secateur.recipes.llama_mixes import FILE_TYPES, ModelTraits, model_traits
from secateur.recipes.llama_types import TypeChoice, TypeRequest, choose_types, needs_importance
from secateur.recipes.recipe import Recipe
from secateur.recipes.rule_lines import LintContext, known_names
from secateur.statistics.gram import GramKind

_UNQUANTIZED = "F16"

_MEASURED = ("tokenizer.", "general.sampling.")
"""The keys of TokenizerKeys, which are measured once for all files."""


@dataclass(frozen=True)
class GgufBase:
    """What all GGUF files of one pruned model share: everything but the types.

    `infos` are the tensors before quantization, `traits` what the type rules need to know.
    """

    checkpoint: Checkpoint
    model: str
    config: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]
    infos: tuple[TensorInfo, ...]
    targets: tuple[Target, ...]
    traits: ModelTraits
    tokenizer: TokenizerKeys

    @property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return sum(math.prod(info.shape) for info in self.infos)


@dataclass(frozen=True)
class GgufLayout:
    """One GGUF file to write: its name, metadata, and tensors in the order of the file.

    `tokenizer_bytes` are those of the tokenizer's and the sampling's keys, which `metadata` lacks
    where only their size is known; None when no tokenizer is at hand. With `split` it becomes
    several files of at most so many bytes of tensors. `widths` are those padded with zeros.
    """

    file: str
    metadata: Metadata
    tensors: tuple[GgufTensor, ...]
    choices: tuple[TypeChoice, ...]
    tokenizer_bytes: int | None
    split: int | None = None
    widths: Widths = field(default_factory=dict)

    @cached_property
    def infos(self) -> tuple[TensorInfo, ...]:
        """The tensors as they are written, with their chosen types."""
        return tuple(
            TensorInfo(tensor.info.name, choice.type, tensor.info.shape)
            for tensor, choice in zip(self.tensors, self.choices, strict=True)
        )

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors, without headers and alignment."""
        return sum(info.nbytes for info in self.infos)

    @property
    def needing_importance(self) -> list[str]:
        """The tensors whose types cannot be made without an importance matrix."""
        return [choice.name for choice in self.choices if choice.needs_importance]

    def made_by(self, plan_sha256: str) -> GgufLayout:
        """The same, its metadata naming the plan that it is written by."""
        return replace(self, metadata={**self.metadata, **written_by(plan_sha256)})

    def rounded_with(self, gram: GramKind | None) -> GgufLayout:
        """The same, its metadata saying that levels were chosen with error feedback, where it has
        a type that this is done for."""
        if gram is None:
            return self
        from secateur.rounding.ggml_types import FEEDBACK_GRIDS

        if not any(choice.type in FEEDBACK_GRIDS for choice in self.choices):
            return self
        return replace(self, metadata={**self.metadata, **rounded_by_feedback(gram)})

    @property
    def parts(self) -> tuple[GgufPart, ...]:
        """Its files, with what each holds."""
        return parts(self.file, self.metadata, self.infos, self.split)

    @property
    def files(self) -> dict[str, int | None]:
        """{file: exact bytes}; without a tokenizer the file with the keys has None."""
        sizes: dict[str, int | None] = {}
        for part in self.parts:
            infos = self.infos[part.first : part.last]
            keys = {k: v for k, v in part.metadata.items() if not k.startswith(_MEASURED)}
            keys_bytes = 0 if part.first else self.tokenizer_bytes
            sizes[part.file] = (
                None if keys_bytes is None else file_bytes(keys, infos, further=keys_bytes)
            )
        return sizes


def gguf_base(checkpoint: Checkpoint, keep: Keep, tokenizer: TokenizerKeys) -> GgufBase:
    """What the GGUF files of the experts kept share.

    Raises FamilyError for a family without rules for GGUF, CheckpointError for a config that a
    GGUF cannot express.
    """
    rules = gguf_rules(checkpoint.family)
    kept = len(next(iter(keep.values())))
    config = pruned_config(checkpoint, kept)
    shapes = {tensor.name: tensor.shape for tensor in select_experts(checkpoint, keep)}
    tensors = gguf_tensors(checkpoint.family, config, shapes, _UNQUANTIZED)
    return GgufBase(
        checkpoint=checkpoint,
        model=model_name(checkpoint, kept),
        config=config,
        tensors=tensors,
        infos=tuple(tensor.info for tensor in tensors),
        targets=tuple(_target(checkpoint, tensor) for tensor in tensors),
        traits=_traits(checkpoint, config, rules.quantize),
        tokenizer=tokenizer,
    )


def lint_context(base: GgufBase) -> LintContext:
    """A decided model's tensors, for its linter."""
    known = known_names(base.checkpoint.family, base.checkpoint.layers)
    return LintContext(base.infos, base.targets, base.traits, known)


def gguf_layout(
    checkpoint: Checkpoint,
    keep: Keep,
    recipe: Recipe,
    *,
    imatrix: Facts | None,
    chosen: Mapping[str, str] | None = None,
    split: int | None = None,
) -> GgufLayout:
    """Decide the GGUF of a recipe for the experts kept, as `gguf_base` and `typed_layout` do."""
    base = gguf_base(checkpoint, keep, tokenizer_keys(checkpoint))
    return typed_layout(base, recipe, imatrix=imatrix, chosen=chosen, split=split)


def typed_layout(
    base: GgufBase,
    recipe: Recipe,
    *,
    imatrix: Facts | None = None,
    assume_imatrix: bool = False,
    layer_importance: Sequence[float] | None = None,
    chosen: Mapping[str, str] | None = None,
    split: int | None = None,
) -> GgufLayout:
    """The GGUF of a recipe.

    `imatrix` are the facts of the importance matrix it will be quantized with, None without one;
    `assume_imatrix` types it as if there were one. `layer_importance` [layers] is for recipes
    that ask for it. `chosen` gives types by tensor name that take the place of the rules' (a
    plan, hand-edited perhaps); `split` is GgufLayout's. Raises PlanError for a recipe that does not
    fit.
    """
    checkpoint = base.checkpoint
    weighed = assume_imatrix or imatrix is not None
    request = _request(recipe, base.targets, checkpoint.layers, weighed, layer_importance)
    tensors, config = base.tensors, base.config
    widths: Widths = {}
    if recipe.pad:
        widest = padded_tensors(checkpoint, tensors, all_widths(checkpoint, tensors))
        asked = choose_types([tensor.info for tensor in widest], base.traits, request)
        types = {**{choice.name: choice.type for choice in asked}, **(chosen or {})}
        widths = widths_needed(checkpoint, tensors, types)
        config = padded_config(checkpoint, config, widths)
        tensors = padded_tensors(checkpoint, tensors, widths)
    choices = choose_types([tensor.info for tensor in tensors], base.traits, request)
    if chosen is not None:
        choices = [
            edit_type(choice, tensor.info, chosen)
            for choice, tensor in zip(choices, tensors, strict=True)
        ]
    number = FILE_TYPES[recipe.base].number
    metadata = {
        **model_metadata(checkpoint.family, config, base.infos, base.model, number),
        **origin_metadata(checkpoint.path, checkpoint.name if "/" in checkpoint.name else None),
        **base.tokenizer.metadata,
        **{
            key: Value(STRING if isinstance(value, str) else "u32", value)
            for key, value in (imatrix or {}).items()
        },
        **written_by(),
    }
    return GgufLayout(
        file_name(base.model, recipe.name, recipe.base),
        metadata,
        tensors,
        tuple(choices),
        base.tokenizer.nbytes,
        split,
        widths,
    )


def planned_tensors(
    checkpoint: Checkpoint, keep: Keep, layout: GgufLayout, format_id: str
) -> tuple[PlannedTensor, ...]:
    """The plan's rows for the tensors of a layout, in the order of the file."""
    pruned = len(next(iter(keep.values()))) != checkpoint.experts
    return tuple(
        PlannedTensor(
            format=format_id,
            name=info.name,
            action=_action(checkpoint, tensor, pruned),
            sources=tensor.sources,
            type=info.type,
            shape=info.shape,
            bytes=info.nbytes,
            fallback_from=choice.fallback_from,
            reason=choice.reason + padding_reason(tensor),
        )
        for tensor, choice, info in zip(layout.tensors, layout.choices, layout.infos, strict=True)
    )


def pruned_config(checkpoint: Checkpoint, kept: int) -> dict[str, Any]:
    """config.json of the output, parsed."""
    text = checkpoint.config_file.read_text("utf-8")
    return dict(json.loads(with_experts(text, checkpoint.family, kept)))


def _target(checkpoint: Checkpoint, tensor: GgufTensor) -> Target:
    if not tensor.sources:
        return Target(tensor.info.name, "generated", None)
    place = checkpoint.matches[tensor.sources[0]]
    return Target(tensor.info.name, place.role, place.layer)


def _request(
    recipe: Recipe,
    targets: Sequence[Target],
    layers: int,
    has_imatrix: bool,
    layer_importance: Sequence[float] | None,
) -> TypeRequest:
    """The recipe as llama-quantize would be asked for it."""
    assigned = assign(recipe, targets, layers, layer_importance)
    if (assigned or recipe.patterns) and not TYPES[FILE_TYPES[recipe.base].default].quantized:
        raise PlanError(
            f"recipe {recipe.name}: llama.cpp ignores every rule when the base is {recipe.base}: "
            "choose a quantized base"
        )
    return TypeRequest(
        recipe.base,
        has_imatrix=has_imatrix,
        embedding=recipe.embedding,
        output=recipe.output,
        patterns=recipe.patterns,
        named={name: (found.type, found.reason) for name, found in assigned.items()},
    )


def edit_type(choice: TypeChoice, info: TensorInfo, chosen: Mapping[str, str]) -> TypeChoice:
    """The choice, or the type that a plan gives the tensor instead; `info` is as the converter
    writes it. Raises PlanError for a vector in another type than F32."""
    wanted = chosen.get(choice.name, choice.type)
    if wanted == choice.type:
        return choice
    if len(info.shape) == 1 and wanted != info.type:
        raise PlanError(
            f"the plan gives the vector {choice.name!r} the type {wanted!r}, and llama.cpp "
            f"computes with vectors in {info.type} only: correct it"
        )
    return TypeChoice(
        choice.name, wanted, "edited by hand", needs_importance=needs_importance(wanted)
    )


def _action(checkpoint: Checkpoint, tensor: GgufTensor, pruned: bool) -> Action:
    if tensor.values is not None:
        return "generate"
    place = checkpoint.matches[tensor.sources[0]]
    routed = place.row.expert_axis is not None or place.expert is not None
    if tensor.padding != NO_PADDING:
        return "select+pad+convert" if pruned and routed else "pad+convert"
    return "select+convert" if pruned and routed else "convert"


def model_name(checkpoint: Checkpoint, kept: int) -> str:
    """What files of the model with `kept` experts are called after."""
    base = checkpoint.name.rpartition("/")[2]
    return base if kept == checkpoint.experts else f"{base}-{kept}e"


def _traits(
    checkpoint: Checkpoint, config: Mapping[str, Any], quantize: Mapping[str, Any]
) -> ModelTraits:
    family = checkpoint.family
    experts, heads = (family.number(config, what) for what in ("experts", "heads"))
    kv_heads = first_kv_heads(family, config)
    return model_traits(checkpoint.layers, experts, heads, kv_heads, quantize)
