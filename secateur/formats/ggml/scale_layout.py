"""Where the scales of a block's groups lie in its bytes, for ggml's scalar types.

Of superblocks a scale is a code times a unit, a float16 that the groups of a superblock share:
number = unit * code * level - other unit * other code. Layouts: the block_* structs of
ggml-common.h, llama.cpp 0c1e57098. Shapes: B blocks of n groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Integers = NDArray[np.integer[Any]]


class GroupCodes(NamedTuple):
    """Integers [B, n]: the scales' codes, and the offsets' where the type has them."""

    scale: Integers
    offset: Integers | None = None


class ScaleCodes(NamedTuple):
    """The bytes `start:stop` of a block hold the codes, from `least` to `most`; `units` are where
    the scale's unit lies, and the offset's."""

    start: int
    stop: int
    least: int
    most: int
    units: tuple[int, ...]
    pack: Callable[[GroupCodes], Bytes]
    unpack: Callable[[Bytes], GroupCodes]

    def unit(self, blocks: Bytes, number: int) -> NDArray[np.float32]:
        """float32 [B, 1]"""
        return read_halves(blocks, self.units[number])


def read_halves(blocks: Bytes, start: int) -> NDArray[np.float32]:
    """float32 [B, 1]: the float16 at `start` of every block."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def pack_fours(codes: GroupCodes) -> Bytes:
    """Q2_K: uint8 [B, 16], the offset's four bits above the scale's."""
    assert codes.offset is not None
    return (codes.scale | codes.offset << 4).astype(np.uint8)


def unpack_fours(packed: Bytes) -> GroupCodes:
    """As `pack_fours` packs."""
    return GroupCodes(packed & 15, packed >> 4)


def pack_pairs_of_six(codes: GroupCodes) -> Bytes:
    """Q4_K and Q5_K: uint8 [B, 12] of eight scales and offsets of six bits."""
    assert codes.offset is not None
    scales, mins = codes.scale.astype(np.uint8), codes.offset.astype(np.uint8)
    return np.concatenate(
        [
            scales[:, :4] | scales[:, 4:] >> 4 << 6,
            mins[:, :4] | mins[:, 4:] >> 4 << 6,
            scales[:, 4:] & 15 | mins[:, 4:] << 4,
        ],
        axis=1,
    )


def unpack_pairs_of_six(packed: Bytes) -> GroupCodes:
    """As `pack_pairs_of_six` packs."""
    scales, mins, both = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    return GroupCodes(
        np.concatenate([scales & 63, both & 15 | scales >> 6 << 4], axis=1),
        np.concatenate([mins & 63, both >> 4 | mins >> 6 << 4], axis=1),
    )


def pack_sixteen_sixes(codes: GroupCodes) -> Bytes:
    """Q3_K: uint8 [B, 12] of sixteen codes from -32 on."""
    six = (codes.scale.astype(np.int16) + 32).astype(np.uint8)
    high = np.zeros((len(six), 4), np.uint8)
    for quarter in range(4):
        high |= six[:, 4 * quarter : 4 * quarter + 4] >> 4 << 2 * quarter
    return np.concatenate([six[:, :8] & 15 | six[:, 8:] << 4, high], axis=1)


def unpack_sixteen_sixes(packed: Bytes) -> GroupCodes:
    """As `pack_sixteen_sixes` packs."""
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    high = np.concatenate([packed[:, 8:] >> 2 * quarter & 3 for quarter in range(4)], axis=1)
    return GroupCodes((low | high << 4).astype(np.int16) - 32)


def pack_eights(codes: GroupCodes) -> Bytes:
    """Q6_K: sixteen signed bytes."""
    return codes.scale.astype(np.int8).view(np.uint8)


def unpack_eights(packed: Bytes) -> GroupCodes:
    """As `pack_eights` packs."""
    return GroupCodes(np.ascontiguousarray(packed).view(np.int8).astype(np.int16))


def pack_eight_sixes(codes: GroupCodes) -> Bytes:
    """IQ4_XS: uint8 [B, 6] of eight codes from -32 on, the high bits of all first."""
    six = codes.scale.astype(np.int32) + 32
    low = (six[:, ::2] & 15 | six[:, 1::2] % 16 << 4).astype(np.uint8)
    high = np.bitwise_or.reduce(six >> 4 << 2 * np.arange(8), axis=1).astype("<u2")
    return np.concatenate([high.view(np.uint8).reshape(-1, 2), low], axis=1)


def unpack_eight_sixes(packed: Bytes) -> GroupCodes:
    """As `pack_eight_sixes` packs."""
    high = np.ascontiguousarray(packed[:, :2]).view("<u2").astype(np.int32)
    low = np.stack([packed[:, 2:] & 15, packed[:, 2:] >> 4], axis=2).reshape(len(packed), 8)
    return GroupCodes((low | (high >> 2 * np.arange(8) & 3) << 4) - 32)


SCALE_CODES: Mapping[str, ScaleCodes] = {
    "Q2_K": ScaleCodes(0, 16, 0, 15, (80, 82), pack_fours, unpack_fours),
    "Q3_K": ScaleCodes(96, 108, -32, 31, (108,), pack_sixteen_sixes, unpack_sixteen_sixes),
    "Q4_K": ScaleCodes(4, 16, 0, 63, (0, 2), pack_pairs_of_six, unpack_pairs_of_six),
    "Q5_K": ScaleCodes(4, 16, 0, 63, (0, 2), pack_pairs_of_six, unpack_pairs_of_six),
    "Q6_K": ScaleCodes(192, 208, -128, 127, (208,), pack_eights, unpack_eights),
    "IQ4_XS": ScaleCodes(2, 8, -32, 31, (0,), pack_eight_sixes, unpack_eight_sixes),
}
"""Of the types whose groups share a unit."""

HALVES: Mapping[str, tuple[int, ...]] = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "IQ4_NL": (0,),
}  # fmt: skip
"""Of types whose block is one group: where its scale lies, and its offset, as float16."""

BYTES: Mapping[str, tuple[int, int]] = {"MXFP4": (1, 254), "NVFP4": (4, 126)}
"""Of types whose scales are small floats of a byte each, that begin a block: how many, and the code
of the largest."""
