"""The MLX model of a pruned checkpoint, decided: tensors, types, config, exact bytes of the files.

What `mlx_lm.convert` writes with a predicate that says the same as the recipe: the same names,
numbers and settings. It differs where mlx-lm stays silent: a matrix whose rows a group does not
divide is an error here, not left unquantized. Reads the config and the headers, no weights.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from secateur.checkpoint.headers import header_bytes
from secateur.checkpoint.reader import INDEX, Checkpoint
from secateur.checkpoint.writer import SHARD_LIMIT, group_shards
from secateur.errors import FormatError, PlanError
from secateur.formats.mlx.codec import FLOATS, MlxType, mlx_type
from secateur.formats.mlx.rules import check_config, mlx_config
from secateur.formats.mlx.tensors import MlxTensor, mlx_tensors, parameters
from secateur.planning.document import Action, PlannedTensor
from secateur.pruning.expert_slices import select_experts
from secateur.pruning.selection import Keep
from secateur.recipes.assign import Target, assign
from secateur.recipes.recipe import Recipe

NONE = "none"
"""In a recipe: the tensor keeps its float type."""

_ALIGNMENT = {"F32": 0, "BF16": 2, "F16": 2}


@dataclass(frozen=True)
class MlxShard:
    """One file of tensors, its header to the byte."""

    name: str
    tensors: tuple[MlxTensor, ...] = field(repr=False)
    header: bytes = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True)
class MlxLayout:
    """One MLX model: its folder's name, its shards, and what config.json says of its types."""

    folder: str
    shards: tuple[MlxShard, ...]
    index: bytes = field(repr=False)
    quantization: Mapping[str, Any] = field(repr=False)

    @property
    def tensors(self) -> tuple[MlxTensor, ...]:
        """All tensors, in the order in which they are written."""
        return tuple(tensor for shard in self.shards for tensor in shard.tensors)

    @property
    def files(self) -> dict[str, int]:
        """Name (with the folder's) -> exact bytes of every file of weights."""
        sizes = {f"{self.folder}/{shard.name}": shard.nbytes for shard in self.shards}
        return {**sizes, f"{self.folder}/{INDEX}": len(self.index)}

    @property
    def bits_per_weight(self) -> float:
        """As mlx-lm counts and prints it (see `parameters`)."""
        return 8 * sum(tensor.nbytes for tensor in self.tensors) / parameters(self.tensors)


def mlx_layout(
    checkpoint: Checkpoint,
    keep: Keep,
    recipe: Recipe,
    *,
    layer_importance: Sequence[float] | None = None,
    chosen: Mapping[str, str] | None = None,
) -> MlxLayout:
    """Decide the MLX model of a recipe for the experts kept.

    `layer_importance` [layers] is for recipes that ask for it; `chosen` gives types by tensor
    name that take the place of the recipe's (a plan, hand-edited perhaps). Raises PlanError for a
    recipe that does not fit, FormatError for a matrix that its type does not divide, FamilyError
    for a family without a form in mlx-lm, CheckpointError for a config that mlx-lm reads wrongly.
    """
    family = checkpoint.family
    kept = len(next(iter(keep.values())))
    text = json.dumps(checkpoint.config)
    config = json.loads(mlx_config(text, family, kept, {}))
    check_config(family, config)
    selected = {tensor.name: tensor for tensor in select_experts(checkpoint, keep)}
    tensors = mlx_tensors(family, config, selected)
    targets = [_target(checkpoint, tensor) for tensor in tensors if tensor.is_matrix]
    asked_types = _asked_types(recipe, targets, checkpoint.layers, layer_importance)
    typed = [_give_type(tensor, asked_types, chosen) for tensor in tensors]
    shards = _shards(typed)
    return MlxLayout(
        folder=recipe.format,
        shards=shards,
        index=_index(shards),
        quantization=_quantization(typed, asked_types[""]),
    )


def planned_tensors(
    checkpoint: Checkpoint, keep: Keep, layout: MlxLayout, format_id: str
) -> tuple[PlannedTensor, ...]:
    """The plan's rows for the tensors of a layout, in the order of writing."""
    pruned = len(next(iter(keep.values()))) != checkpoint.experts
    return tuple(
        PlannedTensor(
            format=format_id,
            name=tensor.name,
            action=_action(checkpoint, tensor, pruned),
            sources=tensor.sources,
            type=tensor.type,
            shape=tensor.shape,
            bytes=tensor.nbytes,
            reason=tensor.reason,
        )
        for tensor in layout.tensors
    )


def _target(checkpoint: Checkpoint, tensor: MlxTensor) -> Target:
    place = checkpoint.family.classify(tensor.sources[0])
    return Target(tensor.name, place.role, place.layer)


def _asked_types(
    recipe: Recipe,
    targets: Sequence[Target],
    layers: int,
    layer_importance: Sequence[float] | None,
) -> dict[str, tuple[MlxType | None, str | None]]:
    """{matrix: (its type, why)} of a recipe; the base is under the empty name.

    `embedding` and `output` are for these roles; an embedding that is the output, too, is given
    the first that is named.
    """
    for what, wanted in (("imatrix", recipe.imatrix), ("pad", recipe.pad)):
        if wanted:
            raise PlanError(f"recipe {recipe.name}: {what} is for GGUF, MLX has no such thing")
    if recipe.patterns:
        raise PlanError(
            f"recipe {recipe.name}: overrides by pattern are llama-quantize's; write rules"
        )
    base = _read_type(recipe, recipe.base)
    asked_types: dict[str, tuple[MlxType | None, str | None]] = {"": (base, None)}
    heads = [target for target in targets if target.role == "head"]
    asked: dict[str, str | None] = {"embedding": recipe.embedding, "head": recipe.output}
    if not heads:
        asked["embedding"] = recipe.embedding or recipe.output
    for target in targets:
        word = asked.get(target.role)
        reason = None if word is None else f"recipe: {target.role} = {word}"
        asked_types[target.name] = (base if word is None else _read_type(recipe, word), reason)
    for name, found in assign(recipe, targets, layers, layer_importance).items():
        asked_types[name] = (_read_type(recipe, found.type), found.reason)
    return asked_types


def _read_type(recipe: Recipe, word: str) -> MlxType | None:
    if word == NONE:
        return None
    try:
        return mlx_type(word)
    except FormatError as error:
        raise PlanError(f"recipe {recipe.name}: {error}") from None


def _give_type(
    tensor: MlxTensor,
    asked_types: Mapping[str, tuple[MlxType | None, str | None]],
    chosen: Mapping[str, str] | None,
) -> MlxTensor:
    """The tensor with its type. Raises FormatError when that does not divide it."""
    kind, reason = asked_types.get(tensor.name, (None, None))
    if chosen is not None:
        word = chosen.get(tensor.name, tensor.dtype)
        # What cannot be, a vector in a quantized type, the plan's check finds.
        kind = mlx_type(word) if word not in FLOATS and tensor.is_matrix else None
        reason = None
    typed = replace(tensor, kind=kind, reason=reason)
    assert typed.parts  # raises where the type does not fit
    return typed


def _quantization(
    tensors: Sequence[MlxTensor], base: tuple[MlxType | None, str | None]
) -> dict[str, Any]:
    """What config.json says: the usual type, and the modules that have another one.

    mlx-lm needs a usual type even when the recipe's base leaves matrices alone: then it is that
    of most bytes. Modules without scales are left alone by its loader.
    """
    sizes: defaultdict[MlxType, int] = defaultdict(int)
    for tensor in tensors:
        if tensor.kind:
            sizes[tensor.kind] += tensor.nbytes
    if not sizes:
        return {}
    usual = base[0] or max(sizes, key=lambda kind: (sizes[kind], kind.name))
    other = {
        tensor.name.removesuffix(".weight"): tensor.kind.settings
        for tensor in tensors
        if tensor.kind not in (None, usual)
    }
    return {**usual.settings, "mode": usual.mode, **other}


def _shards(tensors: Sequence[MlxTensor]) -> tuple[MlxShard, ...]:
    """Filled in the natural order of names, so that a layer's tensors lie together.

    Within a shard those of whole words come first, which aligns every tensor to its elements.
    """
    return tuple(_shard(name, group) for name, group in group_shards(tensors, SHARD_LIMIT))


def _shard(name: str, tensors: Sequence[MlxTensor]) -> MlxShard:
    ordered = tuple(sorted(tensors, key=_alignment))
    parts = [part for tensor in ordered for part in tensor.parts]
    return MlxShard(name, ordered, header_bytes(parts, "mlx"))


def _alignment(tensor: MlxTensor) -> int:
    """0: of whole words of 4 bytes. 1: maybe not, with words. 2: of 2 bytes."""
    if tensor.kind is None:
        return _ALIGNMENT[tensor.dtype]
    return 0 if tensor.kind.mode == "affine" else 1


def _index(shards: Sequence[MlxShard]) -> bytes:
    """The index as mlx-lm writes it, also for a single shard."""
    tensors = [tensor for shard in shards for tensor in shard.tensors]
    index = {
        "metadata": {
            "total_size": sum(tensor.nbytes for tensor in tensors),
            "total_parameters": parameters(tensors),
        },
        "weight_map": dict(
            sorted(
                (part.name, shard.name)
                for shard in shards
                for tensor in shard.tensors
                for part in tensor.parts
            )
        ),
    }
    return (json.dumps(index, indent=4) + "\n").encode()


def _action(checkpoint: Checkpoint, tensor: MlxTensor, pruned: bool) -> Action:
    place = checkpoint.family.classify(tensor.sources[0])
    routed = place.row.expert_axis is not None or place.expert is not None
    cast = any(
        checkpoint.specs[name].dtype != tensor.dtype
        for name in tensor.sources
        if name in checkpoint.specs
    )
    converted = tensor.kind is not None or cast
    if (pruned and routed) or tensor.half[1] > 1:
        return "select+convert" if converted else "select"
    return "convert" if converted else "copy"
