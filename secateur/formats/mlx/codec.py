"""MLX's quantized matrices: what mlx.core.quantize writes, bit for bit, and back.

A row is cut into groups; a group has a scale and, in affine types, a bias:

    affine      w = scale * q + bias, q of 2 to 8 bits; scale and bias in the weights' float type
    mxfp4       w = 2 ** (scale - 127) * e2m1[q]; scale is one byte

Codes follow one another without gaps, the lowest bits first, in words of 32 bits. The formulas
are those of mlx 0.32 on a CPU (`affine_quantize`, `fp_quantize`): numbers half way between two
codes go to the even code (affine) or to the smaller one (mxfp4). On Apple's GPU mlx rounds such
numbers away from zero, so that a file made there differs in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint.tensors import STORAGE, NamedTensor, from_float32, to_float32
from secateur.errors import FormatError, NumericError

BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128)
FLOATS = ("BF16", "F16", "F32")
"""The float types that mlx quantizes from, and keeps scales in."""

_LEAST = np.float32(1e-7)
_LARGEST = 1e30
"""Beyond this the arithmetic of groups overflows; no weight is near it."""

_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_HALF_WAY = (_E2M1[1:] + _E2M1[:-1]) / 2
_TO_INTEGER = np.float32(2**23)
"""Added to a number from 0 to 255 it leaves the nearest integer (even, if half way) in the lowest
byte: rint and a conversion in one addition."""

_BLOCK = 1 << 18
"""Elements at a time: what stays in a core's cache through all passes."""


@dataclass(frozen=True, slots=True)
class MlxType:
    """A quantized type: `affine-4-64` has 4 bits and groups of 64; `mxfp4` has 4 and 32."""

    name: str
    mode: Literal["affine", "mxfp4"]
    bits: int
    group: int

    @property
    def settings(self) -> dict[str, int | str]:
        """What config.json says of it: mlx-lm leaves out the mode where it is affine."""
        found: dict[str, int | str] = {"group_size": self.group, "bits": self.bits}
        return found if self.mode == "affine" else {**found, "mode": self.mode}


class Part(NamedTuple):
    """One tensor of a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * STORAGE[self.dtype].itemsize


class Quantized(NamedTuple):
    """Rows in a quantized type: codes [R, C*bits/32], scales and biases [R, C/group]."""

    codes: NDArray[np.uint32]
    scales: NDArray[np.generic]
    biases: NDArray[np.generic] | None


TYPES: dict[str, MlxType] = {
    **{
        f"affine-{bits}-{group}": MlxType(f"affine-{bits}-{group}", "affine", bits, group)
        for bits in BITS
        for group in GROUPS
    },
    "mxfp4": MlxType("mxfp4", "mxfp4", 4, 32),
}
"""Every type by its name."""


def mlx_type(name: str) -> MlxType:
    """The type called `name`. Raises FormatError that says what there is."""
    if name in TYPES:
        return TYPES[name]
    raise FormatError(
        f"unknown MLX type {name!r}: known are affine-BITS-GROUP with {_listed(BITS)} bits in "
        f"groups of {_listed(GROUPS)} (as in affine-4-64), mxfp4, and none for what stays as it is"
    )


def parts_of(name: str, kind: MlxType, shape: Sequence[int], dtype: str) -> tuple[Part, ...]:
    """The tensors of a file that hold the matrix `name` (`....weight`) of `shape`.

    `dtype` is the float type of its weights. Raises FormatError when rows do not divide.
    """
    *lead, width = shape
    if width % kind.group:
        raise FormatError(
            f"tensor {name} has rows of {width}, which groups of {kind.group} do not divide: "
            f"{_remedy(width)}"
        )
    stem = name.removesuffix("weight")
    groups = (*lead, width // kind.group)
    codes = Part(name, "U32", (*lead, width * kind.bits // 32))
    if kind.mode == "mxfp4":
        return codes, Part(f"{stem}scales", "U8", groups)
    return codes, Part(f"{stem}scales", dtype, groups), Part(f"{stem}biases", dtype, groups)


def quantize(rows: NDArray[np.float32], kind: MlxType, dtype: str) -> Quantized:
    """Quantize finite rows [R, C], whose numbers came from the float type `dtype`.

    Peak memory: the result, and a few blocks of 1 MiB. Raises NumericError for a number that is
    too large.
    """
    count, width = rows.shape
    groups = np.ascontiguousarray(rows).reshape(-1, kind.group)
    codes = np.empty((len(groups), kind.group * kind.bits // 32), np.uint32)
    scales, biases = np.empty((2, len(groups)), np.float32)
    exponents = np.empty(len(groups), np.uint8)
    step = max(1, _BLOCK // kind.group)
    for start in range(0, len(groups), step):
        block = slice(start, start + step)
        if kind.mode == "mxfp4":
            numbers, exponents[block] = _mxfp4(groups[block], dtype)
        else:
            numbers, scales[block], biases[block] = _affine(groups[block], kind.bits)
        codes[block] = pack(numbers, kind.bits)
    shape = (count, width // kind.group)
    words = codes.reshape(count, -1)
    if kind.mode == "mxfp4":
        return Quantized(words, exponents.reshape(shape), None)
    return Quantized(
        words,
        from_float32(scales, dtype).reshape(shape),
        from_float32(biases, dtype).reshape(shape),
    )


def dequantize(
    codes: NDArray[np.uint32],
    scales: NamedTensor,
    biases: NamedTensor | None,
    kind: MlxType,
) -> NDArray[np.float32]:
    """The numbers that codes [..., C*bits/32] stand for, as float32 [..., C]."""
    numbers = unpack(codes, kind.bits)
    groups = numbers.reshape(*numbers.shape[:-1], -1, kind.group)
    if biases is None:
        exponent = scales.array.astype(np.int32) - 127
        values = np.concatenate([_E2M1, -_E2M1])[groups]
        values = np.ldexp(values, exponent[..., None])
    else:
        values = groups.astype(np.float32)
        values *= to_float32(scales)[..., None]
        values += to_float32(biases)[..., None]
    return values.reshape(numbers.shape)


def pack(numbers: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    """Codes [R, C] of `bits` bits as words [R, C*bits/32]; C is a multiple of 32."""
    rows = len(numbers)
    if bits in (2, 4, 8):
        several = numbers.reshape(-1, 8 // bits)
        packed = several[:, 0].copy()
        for place in range(1, 8 // bits):
            packed |= several[:, place] << np.uint8(place * bits)
        return packed.view("<u4").reshape(rows, -1).astype(np.uint32, copy=False)
    together, nbytes = _WHOLE[bits]
    several = numbers.reshape(-1, together)
    joined = several[:, 0].astype(np.uint64)
    for place in range(1, together):
        joined |= several[:, place].astype(np.uint64) << np.uint64(place * bits)
    raw = joined.view(np.uint8).reshape(len(joined), -1)[:, :nbytes]
    return np.ascontiguousarray(raw).reshape(-1).view("<u4").reshape(rows, -1)


def unpack(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """The codes [..., C] of packed words [..., C*bits/32]."""
    raw = np.ascontiguousarray(words, "<u4").view(np.uint8)
    mask = np.uint8(2**bits - 1)
    if bits in (2, 4, 8):
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        numbers = (raw[..., None] >> shifts) & mask
    else:
        together, nbytes = _WHOLE[bits]
        wide = np.zeros((raw.size // nbytes, 8), np.uint8)
        wide[:, :nbytes] = raw.reshape(-1, nbytes)
        joined = wide.view(np.uint64)
        places = np.arange(0, together * bits, bits, dtype=np.uint64)
        numbers = ((joined >> places) & np.uint64(mask)).astype(np.uint8)
    return numbers.reshape(*words.shape[:-1], -1)


_WHOLE = {3: (8, 3), 5: (8, 5), 6: (4, 3)}
"""Bits -> how many codes fill whole bytes, and these bytes."""


def _affine(
    groups: NDArray[np.float32], bits: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """(codes, scales, biases) of groups [G, n].

    The edge of the larger magnitude becomes the bias, and the scale is moved so that zero falls
    on a code. Codes come from the scale before it is rounded to the weights' type.
    """
    largest = np.float32(2**bits - 1)
    high, low = groups.max(axis=1), groups.min(axis=1)
    if max(high.max(), -low.min()) > _LARGEST:
        raise NumericError(
            f"a weight of {max(high.max(), -low.min()):.3g} is too large to be quantized: "
            "mend the checkpoint, or leave this tensor as it is (type none)"
        )
    below = np.abs(low) > np.abs(high)
    scale = np.maximum((high - low) / largest, _LEAST)
    np.negative(scale, out=scale, where=~below)
    edge = np.where(below, low, high)
    steps = np.rint(edge / scale)
    moved = steps != 0
    np.divide(edge, steps, out=scale, where=moved)
    bias = np.where(moved, edge, np.float32(0))
    numbers = groups - bias[:, None]
    numbers /= scale[:, None]
    np.clip(numbers, 0, largest, out=numbers)
    numbers += _TO_INTEGER
    return np.ascontiguousarray(numbers.view("<u4").view(np.uint8)[:, ::4]), scale, bias


def _mxfp4(groups: NDArray[np.float32], dtype: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(codes, scales) of groups [G, 32]. The scale is the first power of two from max / 6 on.

    mlx divides in the weights' type, so the quotient is rounded to that here.
    """
    largest = _rounded(np.abs(groups).max(axis=1) / np.float32(6), dtype)
    fraction, power = np.frexp(largest)
    power = np.where(fraction == 0.5, power - 1, power)
    # The scale's byte reaches no further down; to any model such groups are zero.
    power = np.clip(power, -126, 127)
    magnitude = np.ldexp(np.abs(groups), -power[:, None])
    numbers = np.zeros(groups.shape, np.uint8)
    for half_way in _HALF_WAY:
        numbers += magnitude > half_way
    numbers |= ((groups < 0) & (numbers > 0)).view(np.uint8) << np.uint8(3)
    return numbers, (power + 127).astype(np.uint8)


def _rounded(values: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    return to_float32(NamedTensor("", dtype, from_float32(values, dtype)))


def _remedy(width: int) -> str:
    fitting = [group for group in GROUPS if width % group == 0]
    if fitting:
        return f"choose a group of {_listed(fitting)} for it, or the type none"
    return "give it the type none, which leaves it as it is"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:-1])) + (" or " if numbers[1:] else "") + str(numbers[-1])
