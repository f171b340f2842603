"""Where the codes of a block's numbers lie in its bytes, for ggml's scalar types.

Layouts: the block_* structs of ggml-common.h, llama.cpp 0c1e57098. Codes are uint8 [B, n], the
numbers of B blocks in their order, counted from the type's least level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]
Integers = NDArray[np.integer[Any]]
"""Of 8 bits; an operation with a number makes numpy's types forget that."""


class Field(NamedTuple):
    """Bytes from `start` on of every block, made of its codes."""

    start: int
    pack: Callable[[Codes], Codes]


def pack_nibbles(codes: Integers, span: int) -> Codes:
    """uint8 [B, n / 2]: four low bits of each; of every two spans of codes the first comes low."""
    return _pack_spans(_by_eights(codes, 2, span) & _NIBBLES, 4)


def pack_two_bits(codes: Integers) -> Codes:
    """uint8 [B, n / 4] of codes below 4: of every four spans of 32 the first comes lowest."""
    return _pack_spans(_by_eights(codes, 4, 32), 2)


def pack_eighths(bits: Integers) -> Codes:
    """uint8 [B, n / 8] of bits: of the eight spans of n / 8 the first comes lowest."""
    return _pack_spans(_by_eights(bits, 8, bits.shape[1] // 8), 1)


_NIBBLES = np.uint64(0x0F0F0F0F0F0F0F0F)


def _by_eights(codes: Integers, spans: int, span: int) -> NDArray[np.uint64]:
    """uint64 [B, n / spans / span, spans, span / 8]: eight codes in one number, for which numpy
    needs an eighth of the time."""
    eights = np.ascontiguousarray(codes).view(np.uint64)
    return eights.reshape(len(codes), -1, spans, span // 8)


def _pack_spans(eights: NDArray[np.uint64], bits: int) -> Codes:
    """uint8 [B, n / spans] of codes of so many bits each, of which none reaches into the next."""
    packed = eights[:, :, 0].copy()
    for number in range(1, eights.shape[2]):
        packed |= eights[:, :, number] << np.uint64(bits * number)
    return packed.reshape(len(eights), -1).view(np.uint8)


def pack_bits(bits: Integers) -> Codes:
    """uint8 [B, n / 8] of bits, one after the other, the first lowest."""
    return np.packbits(bits.astype(np.uint8, copy=False), axis=1, bitorder="little")


def _shift(codes: Codes, then: Callable[[Integers], Codes], by: int) -> Codes:
    return then(codes >> by)


def _above_two_bits(codes: Codes) -> Codes:
    return pack_eighths(codes >> 2)


def _low_two_bits(codes: Codes) -> Codes:
    return pack_two_bits(codes & 3)


def _signed_bytes(codes: Codes) -> Codes:
    """Of places from -127 on."""
    return (codes.astype(np.int16) - 127).astype(np.int8).view(np.uint8)


_E2M1 = np.array([15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7], np.uint8)
"""The codes of MXFP4 and NVFP4 by size of their number; minus zero is left out."""


def _e2m1(codes: Codes, span: int) -> Codes:
    return pack_nibbles(_E2M1[codes], span)


FIELDS: Mapping[str, tuple[Field, ...]] = {
    "Q4_0": (Field(2, partial(pack_nibbles, span=16)),),
    "Q4_1": (Field(4, partial(pack_nibbles, span=16)),),
    "Q5_0": (
        Field(2, partial(_shift, then=pack_bits, by=4)),
        Field(6, partial(pack_nibbles, span=16)),
    ),
    "Q5_1": (
        Field(4, partial(_shift, then=pack_bits, by=4)),
        Field(8, partial(pack_nibbles, span=16)),
    ),
    "Q8_0": (Field(2, _signed_bytes),),
    "Q2_K": (Field(16, pack_two_bits),),
    "Q3_K": (Field(0, _above_two_bits), Field(32, _low_two_bits)),
    "Q4_K": (Field(16, partial(pack_nibbles, span=32)),),
    "Q5_K": (
        Field(16, partial(_shift, then=pack_eighths, by=4)),
        Field(48, partial(pack_nibbles, span=32)),
    ),
    "Q6_K": (
        Field(0, partial(pack_nibbles, span=64)),
        Field(128, partial(_shift, then=pack_two_bits, by=4)),
    ),
    "IQ4_NL": (Field(2, partial(pack_nibbles, span=16)),),
    "IQ4_XS": (Field(8, partial(pack_nibbles, span=16)),),
    "MXFP4": (Field(1, partial(_e2m1, span=16)),),
    "NVFP4": (Field(4, partial(_e2m1, span=8)),),
}
"""By scalar type, whose every number has a code of its own: the fields that hold the codes."""


def with_codes(blocks: Codes, type_name: str, codes: Codes) -> Codes:
    """Blocks uint8 [B, bytes] with other codes [B, n], or [1, n] for all of them; all else in them
    stays."""
    changed = blocks.copy()
    for start, pack in FIELDS[type_name]:
        packed = pack(codes)
        changed[:, start : start + packed.shape[1]] = packed
    return changed
