"""The points that the i-quants below 4 bits choose from, and those near every other point.

A group of 4 or 8 numbers is stored as one point of a codebook. Its coordinates are levels l from 0
on, which stand for 2 * l + 1 times a scale (for l - 1 in IQ1). A point is packed into an integer,
`bits` bits a coordinate, the first lowest. The codebooks are read out of ggml's own decoder. Which
points are near a point that is not in the codebook is ggml's rule (iq2xs_init_impl and
iq3xs_init_impl of ggml-quants.c, llama.cpp 0c1e57098): those in its `shells` least distances, the
nearest first, of equally near ones the first in the codebook.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.formats.ggml.engine import load_engine
from secateur.formats.ggml.types import ggml_type

Integers = NDArray[np.int32]


class Lattice(NamedTuple):
    """Points of `dims` coordinates with `levels` levels each, packed in `bits` bits each."""

    dims: int
    bits: int
    levels: int

    def pack(self, points: NDArray[np.integer]) -> Integers:
        """int32 [...] of coordinates [..., dims]."""
        shifts = self.bits * np.arange(self.dims)
        return np.asarray((points.astype(np.int32) << shifts).sum(-1), np.int32)

    def all_points(self) -> NDArray[np.int64]:
        """[levels ** dims, dims], by ascending packed number."""
        axes = np.indices((self.levels,) * self.dims).reshape(self.dims, -1)
        return axes[::-1].T


class Near(NamedTuple):
    """What a packed point p may become: members[starts[p] : starts[p + 1]], in the order in which
    ggml tries them; p itself if it is in the codebook. Their number is even: the last may stand
    there twice."""

    lattice: Lattice
    starts: Integers
    members: Integers


@dataclass(frozen=True)
class Codebook:
    """`index` [2 ** (bits * dims)] is the number of a packed point that is in the codebook."""

    near: Near
    index: NDArray[np.uint16]


def read_codebook(
    type_name: str, blocks: NDArray[np.uint8], lattice: Lattice, shells: int
) -> Codebook:
    """The codebook whose points `blocks` [B, bytes of a block] hold, in order, all of one scale."""
    kind = ggml_type(type_name)
    numbers = np.empty(len(blocks) * kind.block, np.float32)
    to_float = load_engine().ggml_get_type_traits(kind.id).contents.to_float
    to_float(np.ascontiguousarray(blocks).ctypes.data, numbers.ctypes.data, numbers.size)
    coordinates = np.searchsorted(np.unique(numbers), numbers).reshape(-1, lattice.dims)
    return _make_codebook(coordinates, lattice, shells)


def _make_codebook(book: NDArray[np.integer], lattice: Lattice, shells: int) -> Codebook:
    size = 1 << lattice.bits * lattice.dims
    packed = lattice.pack(book)
    index = np.zeros(size, np.uint16)
    index[packed] = np.arange(len(book))
    points = lattice.all_points()
    counts = np.zeros(size + 1, np.int32)
    members = []
    for first in range(0, len(points), 512):
        some = points[first : first + 512]
        near, found = _nearest(some, book, shells)
        numbers = np.bincount(near, minlength=len(some))
        odd = numbers % 2
        counts[lattice.pack(some) + 1] = numbers + odd
        members.append(np.repeat(packed[found], _repeats(numbers, odd)))
    starts = np.cumsum(counts, dtype=np.int32)
    return Codebook(Near(lattice, starts, np.concatenate(members)), index)


def _repeats(numbers: NDArray[np.int64], odd: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each of the points found goes into the list: the last of an odd number twice."""
    often = np.ones(numbers.sum(), np.int64)
    often[np.cumsum(numbers) - 1] += odd
    return often


def _nearest(
    points: NDArray[np.integer], book: NDArray[np.integer], shells: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(number of the point, number in the codebook) of every pair that is near, sorted."""
    distances = np.zeros((len(points), len(book)), np.int16)
    for axis in range(book.shape[1]):
        off = points[:, axis, None].astype(np.int16) - book[None, :, axis].astype(np.int16)
        distances += off * off
    there = np.zeros((len(points), int(distances.max()) + 1), bool)
    np.put_along_axis(there, distances.astype(np.intp), True, 1)
    limits = np.argmax(there.cumsum(1) >= np.minimum(shells, there.sum(1))[:, None], axis=1)
    limits[there[:, 0]] = 0
    near, found = np.nonzero(distances <= limits[:, None])
    order = np.lexsort((found, distances[near, found], near))
    return near[order], found[order]
