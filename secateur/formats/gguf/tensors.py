"""Which tensors a GGUF of a checkpoint holds: names, shapes, sources, and what is not quantized.

Names are the `gguf` fields of the family's rows; per-expert matrices become one stack, and a matrix
of two projections may become two tensors. The split
into F32 and 16 bits is llama.cpp's converter's: vectors, norms, routers and whatever is not called
`.weight` stay F32.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint.expected_tensors import Facts
from secateur.errors import CheckpointError
from secateur.families.format_rules import GeneratedRow
from secateur.families.schema import Family, TensorMatch, TensorRow
from secateur.formats.gguf.container import TensorInfo
from secateur.formats.gguf.padding import NO_PADDING, Padding
from secateur.formats.gguf.row_order import WHOLE, RowView
from secateur.formats.gguf.rules import gguf_rules, require

_F32_PARTS = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", ".position_embd.weight",
)  # fmt: skip
_CONVOLUTION = ".patch_embd.weight"
"""A kernel over patches of an image: F16 where matrices are, else F32."""
_CHANNELS = "red/green/blue"
"""The axis of a row that holds the pixels of a patch."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor to write: its info before quantization, and where its numbers come from.

    `sources` are checkpoint names, several when they are stacked along a new first axis, in that
    order; without sources `values` are the numbers, float32. `view` are the rows of each source's
    matrices, `padding` the zeros that the shape of `info` has and the sources lack.
    """

    info: TensorInfo
    sources: tuple[str, ...]
    values: NDArray[np.float32] | None = None
    padding: Padding = NO_PADDING
    view: RowView = WHOLE
    channels: int = 1
    """The numbers of a source's row belong to so many channels in turn. The tensor has one channel
    after the other, each a square of pixels: shape [rows, channels, side, side]."""

    @property
    def matrix(self) -> tuple[int, ...]:
        """The shape, with the rows that a source has."""
        shape = self.info.shape
        return shape if self.channels == 1 else (shape[0], math.prod(shape[1:]))

    @property
    def columns(self) -> int:
        """Elements of a row without zeros: the inputs that an importance matrix knows."""
        return self.matrix[-1] - self.padding.right


def file_order(name: str) -> tuple[int, str]:
    """Sort key of the order in which llama-quantize meets and writes tensors."""
    found = re.match(r"blk\.(\d+)", name)
    return (int(found[1]) if found else -1, name)


def gguf_tensors(
    family: Family,
    config: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    float_type: str = "F16",
) -> tuple[GgufTensor, ...]:
    """The tensors of a model's GGUF, in file order.

    `shapes` are the checkpoint's tensors as they will be (pruned); `float_type` is the 16-bit
    type of matrices. Tensors of rows without a GGUF name (a vision tower) are left out.
    Raises FamilyError for a tensor without a row, CheckpointError for an uneven stack or a tensor
    that does not have the rows that the config says.
    """
    stacks: defaultdict[str, list[tuple[TensorMatch, str]]] = defaultdict(list)
    views: dict[str, RowView] = {}
    facts = Facts(family, config)
    for name in shapes:
        place = family.classify(name)
        for number, template in enumerate(place.row.gguf):
            target = template.replace("{layer}", str(place.layer))
            stacks[target].append((place, name))
            views[target] = row_view(facts, place.row, number, place.layer)
    _, part = family.section(config)
    tensors = [_generate(row, part) for row in gguf_rules(family).generated]
    for target, members in stacks.items():
        tensors.append(_gather(target, members, shapes, float_type, views[target]))
    return tuple(sorted(tensors, key=lambda tensor: file_order(tensor.info.name)))


def row_view(facts: Facts, row: TensorRow, number: int, layer: int | None) -> RowView:
    """The rows that the `number`th tensor of a row's `gguf` is made of.

    Raises FamilyError for a config that does not give the size of a head.
    """
    if row.gguf_heads is None:
        return RowView(number, len(row.gguf))
    return RowView(number, len(row.gguf), facts.size(row.gguf_heads, layer))


def unquantized_type(name: str, shape: Sequence[int], float_type: str) -> str:
    """The converter's type for a tensor: F32, or `float_type` for a matrix that may be rounded."""
    if len(shape) < 2 or not name.endswith(".weight") or name.endswith(_F32_PARTS):
        return "F32"
    if name.endswith(_CONVOLUTION) and float_type != "F16":
        return "F32"
    return float_type


def _gather(
    target: str,
    members: Sequence[tuple[TensorMatch, str]],
    shapes: Mapping[str, Sequence[int]],
    float_type: str,
    view: RowView,
) -> GgufTensor:
    """One tensor of the GGUF, of one tensor of the checkpoint or of one for every expert."""
    numbered = sorted(
        (-1 if place.expert is None else place.expert, name) for place, name in members
    )
    names = tuple(name for _, name in numbered)
    experts = [expert for expert, _ in numbered]
    one = tuple(shapes[names[0]])
    uneven = [name for name in names if tuple(shapes[name]) != one]
    if uneven or experts not in ([-1], list(range(len(experts)))):
        raise CheckpointError(
            f"{target}: cannot be stacked of experts {experts}"
            + (f", {uneven[0]} differs in shape from {names[0]}" if uneven else "")
        )
    if view != WHOLE:
        one = _shape_of_view(names[0], one, view)
    one, channels = _split_channels(names[0], one, members[0][0].row)
    shape = one if experts == [-1] else (len(names), *one)
    info = TensorInfo(target, unquantized_type(target, shape, float_type), shape)
    return GgufTensor(info, names, view=view, channels=channels)


def _split_channels(
    name: str, shape: tuple[int, ...], row: TensorRow
) -> tuple[tuple[int, ...], int]:
    """(shape, channels) of a tensor: a scalar has one axis, and a patch of an image three."""
    if not row.axes or row.axes[-1] != _CHANNELS:
        return shape or (1,), 1
    channels = _CHANNELS.count("/") + 1
    side = math.isqrt(shape[-1] // channels)
    if shape[-1] != channels * side * side:
        raise CheckpointError(
            f"tensor {name!r} has rows of {shape[-1]} numbers, which are no square of pixels of "
            f"{channels} channels: it is not what its name says"
        )
    return (*shape[:-1], channels, side, side), channels


def _shape_of_view(name: str, shape: tuple[int, ...], view: RowView) -> tuple[int, ...]:
    """The shape of the rows of `view`. Raises CheckpointError where they do not come out even."""
    rows = shape[-2] if len(shape) > 1 else 0
    each = view.parts * (view.head or 1)
    if not rows or rows % each or (view.head or 0) % 2:
        heads = f"heads of {view.head} rows" if view.head else f"{view.parts} equal parts"
        raise CheckpointError(
            f"tensor {name!r} has shape {list(shape)}, whose rows are not {heads}: config.json "
            "does not describe it"
        )
    return (*shape[:-2], rows // view.parts, shape[-1])


def _generate(row: GeneratedRow, part: Mapping[str, Any]) -> GgufTensor:
    found = {what: require(part, row.source_of(what), what) for what in row.sources}
    values = _RULES[row.rule](**found)
    return GgufTensor(TensorInfo(row.name, "F32", values.shape), (), values)


def _proportional_rope(head_dim: int, rotated: float) -> NDArray[np.float32]:
    """Frequency factors [head_dim/2]: 1 for the rotated part, 1e30 (no turn) for the rest.

    ggml rotates the first dimensions of a head; Gemma rotates a part of each half. Factors that
    stop the rotation say the same. Source: llama.cpp conversion/gemma.py.
    """
    turning = int(head_dim * rotated / 2)
    factors = np.full(head_dim // 2, 1e30, dtype=np.float32)
    factors[:turning] = 1.0
    return factors


_RULES: dict[str, Callable[..., NDArray[np.float32]]] = {"proportional_rope": _proportional_rope}
"""Rules that a [[gguf.generate]] row may name."""
