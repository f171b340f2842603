"""Random numbers of any stored type, the same for a seed on every machine and in any order.

A matrix has a stream of its own, which follows from the seed and its name alone: 16 bits at a
time look up a table of 65,536 quantiles, in the bits of the stored type. That is exact to repeat
(PCG64 is fixed, the table needs no randomness), and several times quicker than drawing floats.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint.tensors import from_float32
from secateur.system.in_order import in_order

CHUNK = 1 << 22
"""Numbers made at a time: 32 MiB of random bits."""

_ENTRIES = 1 << 16
_PER_DRAW = 4
"""A draw of PCG64 has 64 bits, a table's index 16."""
_IN_FLIGHT = 2
"""Chunks of a worker that are made or wait to be written."""


@dataclass(frozen=True)
class Distribution:
    """A normal distribution cut at 4.3 times its `spread` (the standard deviation).

    `stored` is a safetensors type, or E2M1: two numbers of four bits in a byte, the first one low.
    """

    stored: str
    mean: float
    spread: float


@dataclass(frozen=True)
class Stream:
    """`count` elements of the stored type, one after the other."""

    key: str
    count: int
    distribution: Distribution


def draw(streams: Iterable[Stream], seed: int, workers: int) -> Iterator[NDArray[Any]]:
    """The elements of all streams, in chunks of at most CHUNK. Peak memory: a few chunks for each
    worker."""
    chunks = ((stream, start) for stream in streams for start in range(0, stream.count, CHUNK))
    for _, found in in_order(lambda chunk: _draw(*chunk, seed), chunks, workers, _IN_FLIGHT):
        yield found


def _draw(stream: Stream, start: int, seed: int) -> NDArray[Any]:
    count = min(CHUNK, stream.count - start)
    key = hashlib.sha256(f"{seed}:{stream.key}".encode()).digest()
    bits = np.random.PCG64(int.from_bytes(key[:16], "little"))
    bits.advance(start // _PER_DRAW)
    raw = bits.random_raw(-(-count // _PER_DRAW)).astype("<u8", copy=False).view("<u2")
    found: NDArray[Any] = _table(stream.distribution)[raw[:count]]
    return found


@cache
def _table(distribution: Distribution) -> NDArray[Any]:
    """The stored bits of every quantile."""
    mean, spread, stored = distribution.mean, distribution.spread, distribution.stored
    if stored == "E2M1":
        # A byte of the random bits for each of two numbers.
        codes = _nearest(mean + spread * _quantiles(1 << 8), _e2m1())
        pairs = np.arange(_ENTRIES)
        both: NDArray[Any] = codes[pairs & 0xFF] | codes[pairs >> 8] << np.uint8(4)
        return both
    values = mean + spread * _quantiles(_ENTRIES)
    if stored == "F8_E4M3":
        return _nearest(values, _e4m3())
    if stored == "U8":
        return np.rint(values).clip(0, 255).astype(np.uint8)
    return from_float32(values.astype(np.float32), stored)


@cache
def _quantiles(count: int) -> NDArray[np.float64]:
    """The middles of `count` equally probable parts of the standard normal distribution."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / count) for i in range(count)])


def _nearest(values: NDArray[np.float64], numbers: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The code of the number nearest to each value, where code c means numbers[c]."""
    order = np.argsort(numbers, kind="stable")
    middles = (numbers[order][1:] + numbers[order][:-1]) / 2
    return order[np.searchsorted(middles, values)].astype(np.uint8)


def _e2m1() -> NDArray[np.float64]:
    """The 16 numbers of OCP's FP4 (MX specification 1.0, section 5.3.3)."""
    half = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    return np.concatenate([half, -half])


def _e4m3() -> NDArray[np.float64]:
    """The numbers of OCP's FP8 E4M3 (MX specification 1.0, section 5.3.1), NaN as infinite."""
    codes = np.arange(128)
    exponent, fraction = codes >> 3, codes & 7
    normal = (1 + fraction / 8) * 2.0 ** (exponent - 7)
    half = np.where(exponent, normal, fraction / 8 * 2.0**-6)
    half[127] = np.inf
    return np.concatenate([half, -half])
