"""Which tensors mlx-lm's form of a checkpoint holds: names, shapes, float types, sources.

Names are those of the family's rows (rules.py); per-expert matrices become one stack, and fused
halves become two tensors.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.checkpoint.headers import Described
from secateur.checkpoint.writer import natural_order
from secateur.errors import CheckpointError
from secateur.families.schema import Family
from secateur.formats.mlx.codec import FLOATS, MlxType, Part, parts_of
from secateur.formats.mlx.rules import mlx_names

_DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


@dataclass(frozen=True)
class MlxTensor:
    """One tensor of the model, by mlx-lm's name; quantized, it is several in the file.

    `dtype` is the float type of its numbers (of scales and biases, where `kind` says that it is
    quantized). `sources` are tensors of the pruned checkpoint: one, or one matrix per expert.
    `half` (n, of) says that it is the n-th of so many equal parts of every source matrix's rows.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    sources: tuple[str, ...]
    half: tuple[int, int]
    kind: MlxType | None = None
    reason: str | None = None

    @property
    def type(self) -> str:
        """Its type, as a plan names it."""
        return self.kind.name if self.kind else self.dtype

    @property
    def parts(self) -> tuple[Part, ...]:
        """The tensors of the file that hold it, in their order there."""
        if self.kind is None:
            return (Part(self.name, self.dtype, self.shape),)
        return parts_of(self.name, self.kind, self.shape, self.dtype)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def is_matrix(self) -> bool:
        """Whether mlx-lm can quantize it: weights of linear layers, of experts, embeddings."""
        return len(self.shape) > 1 and self.name.endswith(".weight")


def mlx_tensors(
    family: Family, config: Mapping[str, Any], selected: Mapping[str, Described]
) -> tuple[MlxTensor, ...]:
    """All tensors of the model, none quantized yet, in the natural order of their names.

    `config` is config.json of the output, `selected` the tensors of the pruned checkpoint. Raises
    CheckpointError for one that mlx-lm has no form of, FamilyError for one without a row.
    """
    tied = is_tied(family, config)
    usual = _float_type(family, config)
    stacks: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    halves: dict[str, tuple[int, int]] = {}
    for name in selected:
        place = family.classify(name)
        if not place.row.axes or (tied and place.role == "head"):
            continue
        names = mlx_names(family, place.row, str(config["model_type"]), place.layer)
        for number, target in enumerate(names):
            stacks[target].append((-1 if place.expert is None else place.expert, name))
            halves[target] = (number, len(names))
    if not tied and not any(family.classify(name).role == "head" for name in selected):
        raise CheckpointError(
            "the checkpoint has no output head, and config.json does not tie it to the embedding: "
            "download the missing tensor, or set tie_word_embeddings"
        )
    return tuple(
        _gathered(target, sorted(stacks[target]), halves[target], selected, usual)
        for target in sorted(stacks, key=natural_order)
    )


def parameters(tensors: Iterable[MlxTensor]) -> int:
    """Numbers in the model, as mlx-lm counts them.

    Those of modules without modules in them: a layer's own scalar and a router's own scales are
    left out. Source: mlx_lm.utils.get_total_parameters. (Of the bytes, mlx-lm counts besides what
    is in the files the tables of some rotary embeddings, a few KiB.)
    """
    sizes = {tensor.name.rpartition(".")[0]: 0 for tensor in tensors}
    for tensor in tensors:
        sizes[tensor.name.rpartition(".")[0]] += math.prod(tensor.shape)
    outer = {
        module.rsplit(".", depth)[0]
        for module in sizes
        for depth in range(1, module.count(".") + 1)
    }
    return sum(size for module, size in sizes.items() if module not in outer)


def _gathered(
    name: str,
    members: Sequence[tuple[int, str]],
    half: tuple[int, int],
    selected: Mapping[str, Described],
    usual: str | None,
) -> MlxTensor:
    sources = tuple(source for _, source in members)
    first = selected[sources[0]]
    stacked = members[0][0] >= 0
    uneven = [s for s in sources if selected[s].shape != first.shape]
    if uneven or (not stacked and len(sources) > 1):
        raise CheckpointError(
            f"{name} cannot be made of {sources[0]} and {(uneven or sources[1:])[0]}: the "
            "checkpoint holds this tensor twice, or experts of different shapes"
        )
    shape = list(first.shape)
    if half[1] > 1:
        shape[-2] //= half[1]
    dtype = usual or first.dtype
    if dtype not in FLOATS or first.dtype not in FLOATS:
        raise CheckpointError(
            f"tensor {sources[0]!r} has type {first.dtype}, and mlx-lm converts only "
            f"{', '.join(FLOATS)}: dequantize the checkpoint to 16 bits first"
        )
    lead = (len(sources),) if stacked else ()
    return MlxTensor(name, (*lead, *shape), dtype, sources, half)


def is_tied(family: Family, config: Mapping[str, Any]) -> bool:
    """Whether mlx-lm takes the embedding for the output head, by config.json."""
    _, part = family.section(config)
    usual = family.shape.defaults.get("tie_word_embeddings", False)
    return bool(part.get("tie_word_embeddings", usual))


def _float_type(family: Family, config: Mapping[str, Any]) -> str | None:
    """The float type to which `mlx_lm.convert` rounds all numbers; None: each keeps its own."""
    section, part = family.section(config)
    named = config.get("torch_dtype") or (part.get("dtype") if section else None)
    return _DTYPES.get(str(named))
