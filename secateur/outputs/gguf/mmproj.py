"""The tower of a vision model as a GGUF of its own (llama.cpp's mmproj), decided.

A GGUF of the model holds the text part only; the tower that sees images goes into another file, as
`convert_hf_to_gguf.py --mmproj` writes it. A family's `[mmproj]` table describes the tower as a
family; pruning does not touch it. Reads the config and the headers, no weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.checkpoint.expected_tensors import expected_tensors
from secateur.checkpoint.reader import Checkpoint
from secateur.errors import CheckpointError, FamilyError, PlanError
from secateur.families.schema import Family
from secateur.formats.ggml.types import TYPES
from secateur.formats.gguf.metadata import model_metadata
from secateur.formats.gguf.naming import MMPROJ
from secateur.formats.gguf.provenance import origin_metadata, written_by
from secateur.formats.gguf.tensors import GgufTensor, gguf_tensors
from secateur.outputs.gguf.layout import GgufLayout, edit_type, model_name
from secateur.recipes.llama_mixes import FILE_TYPES
from secateur.recipes.llama_types import TypeChoice
from secateur.recipes.recipe import Recipe
from secateur.system.text_files import read_json

TYPES_OF_TOWERS = ("F16", "BF16", "F32", "Q8_0")
"""What the converter makes of a tower; the first is the default."""

NONE = "none"
"""Instead of a type: no GGUF of the tower."""

_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Where a model's folder says how images are prepared; what the second says counts."""


def tower_recipe(checkpoint: Checkpoint, request: str | None, gguf: bool) -> tuple[Recipe, ...]:
    """The tower's output: by default, where a `gguf` of a model with a tower is wanted, as F16.

    `request` is one of TYPES_OF_TOWERS in any case, or NONE. Raises PlanError for another word, and
    for a type where the model has no tower.
    """
    word = TYPES_OF_TOWERS[0] if request is None else request.upper()
    if word == NONE.upper() or (request is None and not (gguf and has_tower(checkpoint))):
        return ()
    if word not in TYPES_OF_TOWERS:
        raise PlanError(
            f"--mmproj {request!r}: expected {', '.join(TYPES_OF_TOWERS)}, or {NONE} for no GGUF "
            "of the vision tower"
        )
    if not has_tower(checkpoint):
        raise PlanError(
            f"{checkpoint.source} has no vision tower that llama.cpp reads: leave out --mmproj"
        )
    return (Recipe(word, word, "mmproj"),)


def has_tower(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint holds a tower that its family describes."""
    tower = checkpoint.family.mmproj
    return tower is not None and bool(_shapes(checkpoint, tower))


def parts_left_out(checkpoint: Checkpoint, with_tower: bool) -> list[str]:
    """A sentence for each part of the model that no GGUF will hold; `with_tower`: one has that."""
    written = _roles(checkpoint.family.mmproj) if with_tower else frozenset()
    parts = {place.role: place for place in checkpoint.matches.values() if place.row.carried}
    return [
        f"no GGUF of this plan holds the {role} tensors"
        + (" (--mmproj F16 writes them)" if role in _roles(checkpoint.family.mmproj) else "")
        for role in sorted(parts.keys() - written)
    ]


def mmproj_layout(
    checkpoint: Checkpoint, kept: int, recipe: Recipe, *, chosen: Mapping[str, str] | None = None
) -> GgufLayout:
    """The GGUF of the tower, for a model of which `kept` experts are kept.

    `chosen` gives types by tensor name that take the place of the converter's (a plan,
    hand-edited perhaps). Raises FamilyError for a tensor that is not known, CheckpointError for
    a tower that is not what its config describes, or that llama.cpp does not compute.
    """
    tower = checkpoint.family.mmproj
    if tower is None or not has_tower(checkpoint):
        raise PlanError(f"{checkpoint.source} has no vision tower for {recipe.format}: plan again")
    shapes = _shapes(checkpoint, tower)
    _check(checkpoint, tower, shapes)
    config = _tower_config(checkpoint, tower)
    tensors = gguf_tensors(tower, config, shapes, recipe.base)
    choices = [_choice(tensor) for tensor in tensors]
    name = model_name(checkpoint, kept)
    metadata = {
        **model_metadata(
            tower, config, [t.info for t in tensors], name, FILE_TYPES[recipe.base].number
        ),
        **origin_metadata(checkpoint.path, checkpoint.name if "/" in checkpoint.name else None),
        **written_by(),
    }
    return GgufLayout(
        f"{MMPROJ}{name}-{recipe.name}.gguf",
        metadata,
        tensors,
        tuple(
            choice if chosen is None else edit_type(choice, tensor.info, chosen)
            for choice, tensor in zip(choices, tensors, strict=True)
        ),
        tokenizer_bytes=0,
    )


def _roles(tower: Family | None) -> frozenset[str]:
    return frozenset(row.role for row in tower.rows) if tower else frozenset()


def _shapes(checkpoint: Checkpoint, tower: Family) -> dict[str, tuple[int, ...]]:
    roles = _roles(tower)
    return {
        name: checkpoint.specs[name].shape
        for name, place in checkpoint.matches.items()
        if place.role in roles
    }


def _check(checkpoint: Checkpoint, tower: Family, shapes: Mapping[str, Sequence[int]]) -> None:
    """Every tensor is known, and they are those that the config describes."""
    instead = f"or write no GGUF of the vision tower with --mmproj {NONE}"
    try:
        for name in shapes:
            tower.classify(name)
    except FamilyError as error:
        raise FamilyError(f"{error}; {instead}") from None
    implied = expected_tensors(tower, checkpoint.config, checkpoint.config_file).specs
    for name in sorted({*shapes, *implied}):
        got = list(shapes[name]) if name in shapes else "missing"
        expected = list(implied[name].shape) if name in implied else "none"
        if got != expected:
            raise CheckpointError(
                f"tensor {name!r} of the vision tower: shape {got}, expected {expected} by "
                f"{checkpoint.config_file}: download both again, {instead}"
            )


def _tower_config(checkpoint: Checkpoint, tower: Family) -> dict[str, Any]:
    """The config, with the settings of the processor as `processor` in the tower's section."""
    name, part = tower.section(checkpoint.config)
    return {**checkpoint.config, name: {**part, "processor": _processor(checkpoint.path)}}


def _processor(folder: Path) -> dict[str, Any]:
    """How images are prepared; empty where the folder does not say."""
    settings: dict[str, Any] = {}
    for path in (folder / name for name in _PROCESSORS):
        if not path.is_file():
            continue
        found = read_json(path, "the settings of a processor", CheckpointError)
        if not isinstance(found, dict):
            raise CheckpointError(f"{path} holds {type(found).__name__}, expected a JSON object")
        nested = found.get("image_processor")
        settings |= found | (nested if isinstance(nested, dict) else {})
    return settings


def _choice(tensor: GgufTensor) -> TypeChoice:
    """The converter's type; F16 where rows do not divide into blocks."""
    name, kind = tensor.info.name, tensor.info.type
    if tensor.info.shape[-1] % TYPES[kind].block:
        return TypeChoice(name, "F16", "rows do not divide into blocks", fallback_from=kind)
    reason = "llama.cpp's converter"
    if tensor.channels > 1:
        reason += "; the pixels of a patch, one colour after the other"
    return TypeChoice(name, kind, reason)
