"""The element types a GGUF file can hold: their numbers, block sizes and bytes.

A ggml type stores a row as blocks of `block` elements in `nbytes` bytes each, so a row is
storable only if `block` divides it. The numbers are llama.cpp's (`enum ggml_type` and the
`block_*` structs of ggml-common.h); `engine.py` compares them with the library's when it is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from secateur.errors import FormatError


@dataclass(frozen=True, slots=True)
class GgmlType:
    """One element type: its name, number in a file, elements per block, bytes per block."""

    name: str
    id: int
    block: int
    nbytes: int

    @property
    def bits_per_weight(self) -> float:
        """Bits that one element costs, scales included."""
        return 8 * self.nbytes / self.block

    @property
    def quantized(self) -> bool:
        """True for block types, false for plain floats and integers."""
        return self.block > 1


_ROWS = (
    GgmlType("F32", 0, 1, 4),
    GgmlType("F16", 1, 1, 2),
    GgmlType("Q4_0", 2, 32, 18),
    GgmlType("Q4_1", 3, 32, 20),
    GgmlType("Q5_0", 6, 32, 22),
    GgmlType("Q5_1", 7, 32, 24),
    GgmlType("Q8_0", 8, 32, 34),
    GgmlType("Q8_1", 9, 32, 36),
    GgmlType("Q2_K", 10, 256, 84),
    GgmlType("Q3_K", 11, 256, 110),
    GgmlType("Q4_K", 12, 256, 144),
    GgmlType("Q5_K", 13, 256, 176),
    GgmlType("Q6_K", 14, 256, 210),
    GgmlType("Q8_K", 15, 256, 292),
    GgmlType("IQ2_XXS", 16, 256, 66),
    GgmlType("IQ2_XS", 17, 256, 74),
    GgmlType("IQ3_XXS", 18, 256, 98),
    GgmlType("IQ1_S", 19, 256, 50),
    GgmlType("IQ4_NL", 20, 32, 18),
    GgmlType("IQ3_S", 21, 256, 110),
    GgmlType("IQ2_S", 22, 256, 82),
    GgmlType("IQ4_XS", 23, 256, 136),
    GgmlType("I8", 24, 1, 1),
    GgmlType("I16", 25, 1, 2),
    GgmlType("I32", 26, 1, 4),
    GgmlType("I64", 27, 1, 8),
    GgmlType("F64", 28, 1, 8),
    GgmlType("IQ1_M", 29, 256, 56),
    GgmlType("BF16", 30, 1, 2),
    GgmlType("TQ1_0", 34, 256, 54),
    GgmlType("TQ2_0", 35, 256, 66),
    GgmlType("MXFP4", 39, 32, 17),
    GgmlType("NVFP4", 40, 64, 36),
    GgmlType("Q1_0", 41, 128, 18),
    GgmlType("Q2_0", 42, 64, 18),
)

TYPES: dict[str, GgmlType] = {row.name: row for row in _ROWS}
"""Every ggml type by its upper-case name; the missing numbers are types llama.cpp removed."""

TYPES_BY_ID: dict[int, GgmlType] = {row.id: row for row in _ROWS}
"""Every ggml type by its number in a file."""

INTERNAL_TYPES = frozenset({"Q8_1", "Q8_K"})
"""Types of activations inside llama.cpp: nothing encodes weights to them."""


def ggml_type(name: str) -> GgmlType:
    """The type called `name`, in any case. Raises FormatError that lists the known names."""
    found = TYPES.get(name.upper())
    if found is None:
        raise FormatError(f"unknown ggml type {name!r}, known are: {', '.join(TYPES)}")
    return found


def bytes_of(type_name: str, shape: Sequence[int], tensor: str = "") -> int:
    """Exact bytes of a tensor of this type, without padding.

    `shape` is in row-major (Hugging Face) order: the last axis is the row that blocks divide.
    Raises FormatError if it does not divide.
    """
    kind = ggml_type(type_name)
    row = shape[-1] if shape else 1
    if row % kind.block:
        raise FormatError(
            f"tensor {tensor or '?'} of shape {list(shape)}: rows of {row} elements do not divide "
            f"into {kind.name} blocks of {kind.block}: choose a type with a block that divides "
            f"{row} ({_list_fitting(row)})"
        )
    return math.prod(shape) // kind.block * kind.nbytes


def _list_fitting(row: int) -> str:
    return ", ".join(kind.name for kind in _ROWS if kind.quantized and row % kind.block == 0) or (
        "F16, BF16 or F32"
    )
