"""Which tensors a GGUF of a checkpoint holds: names, shapes, sources, and what is not quantized.

Names are the `gguf` fields of the family's rows; per-expert matrices become one stack. The split
into F32 and 16 bits is llama.cpp's converter's: vectors, norms, routers and whatever is not called
`.weight` stay F32.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint.families import Family
from secateur.errors import CheckpointError
from secateur.formats.gguf import TensorInfo
from secateur.formats.gguf_rules import GeneratedRow, gguf_rules, require
from secateur.formats.padding import NO_PADDING, Padding

_F32_PARTS = ("_norm.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor to write: its info before quantization, and where its numbers come from.

    `sources` are checkpoint names, several when they are stacked along a new first axis, in that
    order; without sources `values` are the numbers, float32. `padding` are the zeros that the
    shape of `info` has and the sources lack.
    """

    info: TensorInfo
    sources: tuple[str, ...]
    values: NDArray[np.float32] | None = None
    padding: Padding = NO_PADDING

    @property
    def columns(self) -> int:
        """Elements of a row without zeros: the inputs that an importance matrix knows."""
        return self.info.shape[-1] - self.padding.right


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
    in a form that llama.cpp does not read.
    """
    stacks: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for name in shapes:
        place = family.classify(name)
        if place.row.gguf is None:
            continue
        target = place.row.gguf.replace("{layer}", str(place.layer))
        stacks[target].append((-1 if place.expert is None else place.expert, name))
    rules = gguf_rules(family)
    _, part = family.section(config)
    tensors = [_generate(row, part) for row in rules.generated]
    refused = next((n for n in stacks for word in rules.refuse if word in n), None)
    if refused is not None:
        raise CheckpointError(
            f"{stacks[refused][0][1]} would be {refused}, which llama.cpp's {rules.architecture} "
            "does not read: save the checkpoint in its published form, one tensor per projection"
        )
    for target, members in stacks.items():
        tensors.append(_gather(target, sorted(members), shapes, float_type))
    return tuple(sorted(tensors, key=lambda tensor: file_order(tensor.info.name)))


def unquantized_type(name: str, shape: Sequence[int], float_type: str) -> str:
    """The converter's type for a tensor: F32, or `float_type` for a matrix that may be rounded."""
    if len(shape) < 2 or not name.endswith(".weight") or name.endswith(_F32_PARTS):
        return "F32"
    return float_type


def _gather(
    target: str,
    members: Sequence[tuple[int, str]],
    shapes: Mapping[str, Sequence[int]],
    float_type: str,
) -> GgufTensor:
    names = tuple(name for _, name in members)
    experts = [expert for expert, _ in members]
    one = tuple(shapes[names[0]])
    uneven = [name for name in names if tuple(shapes[name]) != one]
    if uneven or experts not in ([-1], list(range(len(experts)))):
        raise CheckpointError(
            f"{target}: cannot be stacked of experts {experts}"
            + (f", {uneven[0]} differs in shape from {names[0]}" if uneven else "")
        )
    shape = one if experts == [-1] else (len(names), *one)
    return GgufTensor(TensorInfo(target, unquantized_type(target, shape, float_type), shape), names)


def _generate(row: GeneratedRow, part: Mapping[str, Any]) -> GgufTensor:
    found = {what: require(part, source, what) for what, source in row.sources.items()}
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
