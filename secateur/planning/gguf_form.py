"""The GGUF of a pruned checkpoint, decided: metadata, tensors, types, exact bytes.

llama.cpp's converter and llama-quantize in one: what the first would write in 16 bits
(formats.gguf_tensors), typed as the second would type it (llama_types). Reads the tokenizer and
the config, no weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from secateur.checkpoint.config import with_experts
from secateur.checkpoint.reader import Checkpoint
from secateur.errors import PlanError
from secateur.formats.gguf import STRING, Metadata, TensorInfo, Value, file_bytes
from secateur.formats.gguf_metadata import model_metadata, sampling_metadata
from secateur.formats.gguf_rules import gguf_rules
from secateur.formats.gguf_tensors import GgufTensor, gguf_tensors
from secateur.formats.gguf_tokenizer import tokenizer_metadata
from secateur.formats.types import TYPES
from secateur.planning.assign import Target, assign
from secateur.planning.experts import select_experts
from secateur.planning.importance import Facts
from secateur.planning.llama_mixes import FILE_TYPES, ModelTraits
from secateur.planning.llama_types import TypeChoice, TypeRequest, choose_types
from secateur.planning.plan import Action, PlannedTensor
from secateur.planning.recipe import Recipe
from secateur.planning.selection import Keep

_UNQUANTIZED = "F16"


@dataclass(frozen=True)
class GgufForm:
    """One GGUF file to write: its name, metadata, and tensors in the order of the file."""

    file: str
    metadata: Metadata
    tensors: tuple[GgufTensor, ...]
    choices: tuple[TypeChoice, ...]

    @property
    def infos(self) -> tuple[TensorInfo, ...]:
        """The tensors as they are written, with their chosen types."""
        return tuple(
            replace(tensor.info, type=choice.type)
            for tensor, choice in zip(self.tensors, self.choices, strict=True)
        )

    @property
    def nbytes(self) -> int:
        """Exact bytes of the file."""
        return file_bytes(self.metadata, self.infos)


def gguf_form(
    checkpoint: Checkpoint,
    keep: Keep,
    recipe: Recipe,
    *,
    imatrix: Facts | None,
    layer_importance: Sequence[float] | None = None,
    chosen: Mapping[str, str] | None = None,
) -> GgufForm:
    """Decide the GGUF of a recipe for the experts kept.

    `imatrix` are the facts of the importance matrix it will be quantized with, None without one;
    `layer_importance` [layers] is for recipes that ask for it. `chosen` gives types by tensor
    name that take the place of the rules' (a plan, hand-edited perhaps). Raises PlanError for a
    recipe that does not fit, FamilyError for a family without a GGUF form, CheckpointError for a
    tokenizer or config that cannot be expressed.
    """
    rules = gguf_rules(checkpoint.family)
    kept = len(next(iter(keep.values())))
    config = pruned_config(checkpoint, kept)
    shapes = {tensor.name: tensor.shape for tensor in select_experts(checkpoint, keep)}
    tensors = gguf_tensors(checkpoint.family, config, shapes, _UNQUANTIZED)
    infos = [tensor.info for tensor in tensors]
    targets = [_target(checkpoint, tensor) for tensor in tensors]
    request = _request(recipe, targets, checkpoint.layers, imatrix is not None, layer_importance)
    choices = choose_types(infos, _traits(checkpoint, config, rules.quantize), request)
    if chosen is not None:
        choices = [_edited(choice, chosen) for choice in choices]
    model = _model_name(checkpoint, kept)
    rows = next(info.shape[0] for info in infos if info.name == "token_embd.weight")
    metadata = {
        **model_metadata(checkpoint.family, config, infos, model, FILE_TYPES[recipe.base].number),
        **sampling_metadata(checkpoint.path),
        **tokenizer_metadata(checkpoint.path, config, rules.tokenizer, rows),
        **{
            key: Value(STRING if isinstance(value, str) else "u32", value)
            for key, value in (imatrix or {}).items()
        },
    }
    return GgufForm(f"{model}-{recipe.name}.gguf", metadata, tensors, tuple(choices))


def plan_gguf(
    checkpoint: Checkpoint, keep: Keep, form: GgufForm, recipe: Recipe
) -> tuple[tuple[PlannedTensor, ...], dict[str, int]]:
    """(tensors, {file: bytes}) of a decided GGUF."""
    pruned = len(next(iter(keep.values()))) != checkpoint.experts
    planned = [
        PlannedTensor(
            format=recipe.format,
            name=info.name,
            action=_action(checkpoint, tensor, pruned),
            sources=tensor.sources,
            type=info.type,
            shape=info.shape,
            bytes=info.nbytes,
            fallback_from=choice.fallback_from,
            reason=choice.reason,
        )
        for tensor, choice, info in zip(form.tensors, form.choices, form.infos, strict=True)
    ]
    return tuple(planned), {form.file: form.nbytes}


def pruned_config(checkpoint: Checkpoint, kept: int) -> dict[str, Any]:
    """config.json of the output, parsed."""
    text = (checkpoint.path / "config.json").read_text("utf-8")
    return dict(json.loads(with_experts(text, checkpoint.family, kept)))


def _target(checkpoint: Checkpoint, tensor: GgufTensor) -> Target:
    if not tensor.sources:
        return Target(tensor.info.name, "generated", None)
    place = checkpoint.places[tensor.sources[0]]
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


def _edited(choice: TypeChoice, chosen: Mapping[str, str]) -> TypeChoice:
    wanted = chosen.get(choice.name, choice.type)
    if wanted == choice.type:
        return choice
    return TypeChoice(choice.name, wanted, "edited by hand")


def _action(checkpoint: Checkpoint, tensor: GgufTensor, pruned: bool) -> Action:
    if tensor.values is not None:
        return "generate"
    place = checkpoint.places[tensor.sources[0]]
    routed = place.row.expert_axis is not None or place.expert is not None
    return "select+convert" if pruned and routed else "convert"


def _model_name(checkpoint: Checkpoint, kept: int) -> str:
    base = checkpoint.name.rpartition("/")[2]
    return base if kept == checkpoint.experts else f"{base}-{kept}e"


def _traits(
    checkpoint: Checkpoint, config: Mapping[str, Any], quantize: Mapping[str, Any]
) -> ModelTraits:
    family = checkpoint.family
    words: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in quantize.items()
    }
    heads = family.number(config, "heads")
    found = family.find(config, "kv_heads")
    return ModelTraits(
        layers=checkpoint.layers,
        experts=family.number(config, "experts"),
        heads=heads,
        kv_heads=found[1] if found else heads,
        **words,
    )
