"""Where points, signs and scales of ggml's codebook types lie in their bytes.

Groups of 4 or 8 numbers are points of a codebook. In IQ2 and IQ3 types points are magnitudes, and
signs lie apart, one bit each or seven bits for eight; in IQ1 types points are -1, 0 and 1, and a
bit says which way all numbers of a group or a block are shifted. Blocks of 16 or 32 numbers share a
scale, a code c that stands for 2 * c + 1 times the superblock's. Layouts: ggml-common.h of
llama.cpp 0c1e57098.

S superblocks of 256 numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.formats.ggml.codebooks import Lattice
from secateur.formats.ggml.search_kernels import Codes

SUPER = 256
"""Numbers of a superblock."""

EIGHTS = Lattice(8, 2, 3)
FOURS = Lattice(4, 3, 8)


class GridParts(NamedTuple):
    """What superblocks are made of."""

    points: NDArray[np.uint16]
    """[S, 256 / dims]: the codebook's points by number"""
    signs: Codes
    """[S, 32]: of 8 numbers a byte, a bit is 1 below 0; where points are shifted, the byte is not 0
    for a shift below 0"""
    scales: Codes
    """[S, 256 / n]: the codes of the blocks' scales"""
    d: NDArray[np.float16]
    """[S]"""


@dataclass(frozen=True)
class GridLayout:
    """A type: its lattice, the points of its codebook, the numbers `n` of a block, how signs are
    stored (`even`: seven bits for eight, an even number of them below 0), the largest code of a
    scale, and how its bytes are made and read."""

    lattice: Lattice
    book: int
    n: int
    signs: Literal["each", "even", "shift"]
    most: int
    pack: Callable[[GridParts], Codes]
    """uint8 [S, bytes]"""
    read_scales: Callable[[Codes], tuple[NDArray[np.float16], Codes]]
    """(d [S], codes [S, 256 / n]) of superblocks uint8 [S, bytes]"""
    shared: int = 0
    """neighbours that are shifted together, or 0"""

    def all_points(self) -> Codes:
        """Superblocks that hold all points of the codebook in order, at scale 1, without signs or
        shifted up."""
        points = np.arange(self.book, dtype=np.uint16).reshape(-1, SUPER // self.lattice.dims)
        count = len(points)
        scales = np.zeros((count, SUPER // self.n), np.uint8)
        signs = np.zeros((count, SUPER // 8), np.uint8)
        return self.pack(GridParts(points, signs, scales, np.ones(count, np.float16)))


def _join(*parts: NDArray[np.generic]) -> Codes:
    """uint8 [S, bytes]: the bytes of parts [S, ...], one after the other."""
    return np.concatenate(
        [np.ascontiguousarray(part).reshape(len(part), -1).view(np.uint8) for part in parts], axis=1
    )


def _seven_bits(parts: GridParts) -> NDArray[np.uint32]:
    """uint32 [S, 8]: the signs of 32 numbers, seven bits for eight, below the code of their
    scale."""
    four = (parts.signs & 127).reshape(len(parts.signs), 8, 4).astype(np.uint32)
    words = np.bitwise_or.reduce(four << np.arange(0, 28, 7, dtype=np.uint32), axis=2)
    return np.asarray(words | parts.scales.astype(np.uint32) << np.uint32(28))


def _nibbles(scales: Codes) -> Codes:
    return np.asarray(scales[:, ::2] | scales[:, 1::2] << 4, np.uint8)


def _pack_iq3_xxs(parts: GridParts) -> Codes:
    return _join(parts.d, parts.points.astype(np.uint8), _seven_bits(parts))


def _pack_iq3_s(parts: GridParts) -> Codes:
    high = np.packbits((parts.points >> 8).astype(np.uint8), axis=1, bitorder="little")
    points = parts.points.astype(np.uint8)
    return _join(parts.d, points, high, parts.signs, _nibbles(parts.scales))


def _pack_iq2_xxs(parts: GridParts) -> Codes:
    words = np.empty((len(parts.d), 8, 2), np.uint32)
    words[:, :, 0] = parts.points.astype(np.uint8).view(np.uint32)
    words[:, :, 1] = _seven_bits(parts)
    return _join(parts.d, words)


def _pack_iq2_xs(parts: GridParts) -> Codes:
    signs = (parts.signs & 127).astype(np.uint16) << np.uint16(9)
    return _join(parts.d, parts.points | signs, _nibbles(parts.scales))


def _pack_iq2_s(parts: GridParts) -> Codes:
    four = (parts.points >> 8).astype(np.uint8).reshape(len(parts.d), 8, 4)
    high = np.bitwise_or.reduce(four << np.arange(0, 8, 2, dtype=np.uint8), axis=2)
    points = parts.points.astype(np.uint8)
    return _join(parts.d, points, parts.signs, high, _nibbles(parts.scales))


def _threes(codes: NDArray[np.integer]) -> NDArray[np.uint16]:
    """uint16 [S, n / 4]: of every four codes three bits, the first lowest."""
    four = codes.astype(np.uint16).reshape(len(codes), -1, 4)
    return np.asarray(np.bitwise_or.reduce(four << np.arange(0, 12, 3, dtype=np.uint16), axis=2))


def _pack_iq1_s(parts: GridParts) -> Codes:
    codes = parts.scales | (parts.signs[:, ::4] != 0).astype(np.uint8) << 3
    high = _threes(parts.points >> 8) | codes.astype(np.uint16) << np.uint16(12)
    return _join(parts.d, parts.points.astype(np.uint8), high)


def _pack_iq1_m(parts: GridParts) -> Codes:
    high = (parts.points >> 8).astype(np.uint8) | (parts.signs != 0).astype(np.uint8) << 3
    bits = parts.d.view(np.uint16)[:, None] >> np.arange(0, 16, 4, dtype=np.uint16) & np.uint16(15)
    scales = _threes(parts.scales) | bits << np.uint16(12)
    return _join(parts.points.astype(np.uint8), _nibbles(high), scales)


def _first_half(blocks: Codes) -> NDArray[np.float16]:
    return np.ascontiguousarray(blocks[:, :2]).view(np.float16)[:, 0]


def _read_nibbles(blocks: Codes, count: int) -> tuple[NDArray[np.float16], Codes]:
    """Two codes a byte, in the last bytes of superblocks."""
    packed = blocks[:, -count:]
    codes = np.stack([packed & 15, packed >> 4], axis=2).reshape(len(blocks), -1)
    return _first_half(blocks), codes


def _read_top(
    blocks: Codes, first: int, step: int, bits: int = 15
) -> tuple[NDArray[np.float16], Codes]:
    """The codes above signs or points: high bits of every `step`th byte."""
    return _first_half(blocks), np.asarray(blocks[:, first::step] >> 4 & bits, np.uint8)


def _read_iq1_m(blocks: Codes) -> tuple[NDArray[np.float16], Codes]:
    words = np.ascontiguousarray(blocks[:, -8:]).view(np.uint16)
    d = np.bitwise_or.reduce(words >> 12 << np.arange(0, 16, 4, dtype=np.uint16), axis=1)
    codes = words[:, :, None] >> np.arange(0, 12, 3, dtype=np.uint16) & np.uint16(7)
    return d.view(np.float16), codes.astype(np.uint8).reshape(len(blocks), -1)


GRID_LAYOUTS: Mapping[str, GridLayout] = {
    "IQ3_XXS": GridLayout(
        FOURS, 256, 32, "even", 15, _pack_iq3_xxs, partial(_read_top, first=69, step=4)
    ),
    "IQ3_S": GridLayout(FOURS, 512, 32, "each", 15, _pack_iq3_s, partial(_read_nibbles, count=4)),
    "IQ2_XXS": GridLayout(
        EIGHTS, 256, 32, "even", 15, _pack_iq2_xxs, partial(_read_top, first=9, step=8)
    ),
    "IQ2_XS": GridLayout(
        EIGHTS, 512, 16, "even", 15, _pack_iq2_xs, partial(_read_nibbles, count=8)
    ),
    "IQ2_S": GridLayout(EIGHTS, 1024, 16, "each", 15, _pack_iq2_s, partial(_read_nibbles, count=8)),
    "IQ1_S": GridLayout(
        EIGHTS, 2048, 32, "shift", 7, _pack_iq1_s, partial(_read_top, first=35, step=2, bits=7), 32
    ),
    "IQ1_M": GridLayout(EIGHTS, 2048, 16, "shift", 7, _pack_iq1_m, _read_iq1_m, 8),
}
"""By type."""
