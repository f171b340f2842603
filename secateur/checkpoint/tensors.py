"""The one record that flows through secateur, and the element types it can carry.

numpy has no bfloat16 and no 8-bit floats: their elements travel as raw bits (uint16, uint8)
together with their logical type, which is safetensors' own name for it. Selecting, stacking and
copying need no arithmetic; who needs numbers calls `to_float32`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.errors import CheckpointError, NumericError

STORAGE: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E4M3": np.dtype(np.uint8),
    "F8_E5M2": np.dtype(np.uint8),
    "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "F32": np.dtype(np.float32),
    "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64),
    "F64": np.dtype(np.float64),
}
"""safetensors' element type -> the numpy type that holds its bits."""


class NamedTensor(NamedTuple):
    """A tensor on its way: its name, safetensors element type, and bits (C order)."""

    name: str
    dtype: str
    array: NDArray[np.generic]


def to_float32(tensor: NamedTensor) -> NDArray[np.float32]:
    """The tensor's numbers as float32; exact for BF16 and F16, rounded for F64.

    Raises CheckpointError for a type that holds no plain numbers (8-bit floats need their
    scales, integers are no weights), NumericError for a number of F64 beyond float32.
    """
    array = tensor.array
    if tensor.dtype == "BF16":
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if tensor.dtype in ("F16", "F32"):
        return array.astype(np.float32, copy=False)
    if tensor.dtype == "F64":
        with np.errstate(over="ignore"):
            numbers = array.astype(np.float32)
        if np.isinf(numbers).sum() > np.isinf(array).sum():
            raise NumericError(
                f"tensor {tensor.name!r} holds a number that is too large for 32 bits (at most "
                "3.4e38): mend the checkpoint"
            )
        return numbers
    raise CheckpointError(
        f"tensor {tensor.name!r} has type {tensor.dtype}, expected BF16, F16, F32 or F64: "
        "dequantize the checkpoint to 16 bits first"
    )


LARGEST = {"F16": "65504", "BF16": "3.39e38"}
"""The largest numbers of the 16-bit types."""


def from_float32(values: NDArray[np.float32], dtype: str) -> NDArray[np.generic]:
    """Finite numbers as the bits of BF16, F16 or F32: rounded to nearest, half way to even.

    Raises NumericError when one of them is too large for the type.
    """
    if dtype == "F32":
        return values
    if dtype == "F16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        finite = bool(np.isfinite(half).all())
        stored: NDArray[np.generic] = half
    else:
        bits = values.view(np.uint32)
        even = (bits >> np.uint32(16)) & np.uint32(1)
        rounded = ((bits + np.uint32(0x7FFF) + even) >> np.uint32(16)).astype(np.uint16)
        finite = not ((rounded & 0x7F80) == 0x7F80).any()
        stored = rounded
    if not finite:
        raise NumericError(
            f"a number is too large for {dtype} (at most {LARGEST[dtype]}): keep this tensor in F32"
        )
    return stored
