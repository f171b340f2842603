"""Finding NaN and infinity in the raw bits of weights, at memory speed and without decoding.

With the sign bit cleared, the bits of a float, read as an integer, order as the numbers do:
finite ones, then infinity, then every NaN. So the largest magnitude in a block tells all. Among
positive floats it is the maximum of the bits read as a signed integer, among negative ones as
an unsigned integer: two passes that stay in the cache, and no temporary array.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint.byte_ranges import Allowed
from secateur.errors import CheckpointError


class _Bits(NamedTuple):
    """Of a float type, in bits without the sign: the largest finite number, and infinity."""

    width: int
    largest: int
    infinity: int


_FLOATS = {
    "F8_E4M3": _Bits(1, 0x7E, 0x7E),  # has no infinity
    "F8_E5M2": _Bits(1, 0x7B, 0x7C),
    "F16": _Bits(2, 0x7BFF, 0x7C00),
    "BF16": _Bits(2, 0x7F7F, 0x7F80),
    "F32": _Bits(4, 0x7F7FFFFF, 0x7F800000),
    "F64": _Bits(8, 0x7FEFFFFFFFFFFFFF, 0x7FF0000000000000),
}

_BLOCK = 1 << 18
"""Elements per look: small enough that the second pass finds them in the cache."""


def first_forbidden(dtype: str, data: memoryview, allowed: Allowed = "finite") -> int | None:
    """Index of the first element that `allowed` forbids, None when there is none.

    `data` holds whole elements of the safetensors type `dtype`. Integers are always allowed.
    Needs no memory while all is well; one block more to find the place when it is not.
    """
    bits = _FLOATS.get(dtype)
    if bits is None or allowed == "any" or not len(data):
        return None
    limit = bits.largest if allowed == "finite" else bits.infinity
    raw: NDArray[np.unsignedinteger[Any]] = np.frombuffer(data, f"<u{bits.width}")
    signed = raw.view(f"<i{bits.width}")
    magnitude = (1 << (8 * bits.width - 1)) - 1
    for start in range(0, raw.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        if int(signed[block].max()) > limit or int(raw[block].max()) & magnitude > limit:
            clear = np.bitwise_and(raw[block], raw.dtype.type(magnitude))
            return start + int(np.argmax(clear > limit))
    return None


def refuse_forbidden(
    name: str, dtype: str, data: memoryview, allowed: Allowed = "finite", start: int = 0
) -> None:
    """Raise CheckpointError when `data`, from element `start` of the tensor on, is not allowed."""
    found = first_forbidden(dtype, data, allowed)
    if found is None:
        return
    width = _FLOATS[dtype].width
    element = data[found * width : (found + 1) * width]
    infinite = first_forbidden(dtype, element, "infinite") is None
    raise CheckpointError(
        f"tensor {name!r} holds {'infinity' if infinite else 'NaN'} at element {start + found} "
        f"(type {dtype}), expected finite weights: the checkpoint is damaged, download it again"
    )
