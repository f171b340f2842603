"""The one record that flows through secateur, and the element types it can carry.

numpy has no bfloat16 and no 8-bit floats: their elements travel as raw bits (uint16, uint8)
beside their logical type, which is safetensors' own name for it. Selecting, stacking and
copying need no arithmetic; who needs numbers calls `to_float32`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.errors import CheckpointError

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
    scales, integers are no weights).
    """
    array = tensor.array
    if tensor.dtype == "BF16":
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if tensor.dtype in ("F16", "F32", "F64"):
        return array.astype(np.float32, copy=False)
    raise CheckpointError(
        f"tensor {tensor.name!r} has type {tensor.dtype}, expected BF16, F16, F32 or F64: "
        "dequantize the checkpoint to 16 bits first"
    )
