"""The grids of ggml's scalar types.

Scales are read by decoding the block with the code of a known level everywhere: what llama.cpp
makes of the bytes is what counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secateur.formats.ggml.code_layout import with_codes
from secateur.formats.ggml.codec import decode
from secateur.formats.ggml.scale_layout import BYTES, HALVES, SCALE_CODES, GroupCodes
from secateur.formats.ggml.search_kernels import VALUES
from secateur.formats.ggml.types import ggml_type
from secateur.rounding.factor import Factor, Groups
from secateur.rounding.feedback import round_with_feedback
from secateur.rounding.grid import (
    LARGEST_HALF,
    OFFSET_STEP,
    SPAN_STEP,
    STEPS,
    Choices,
    Choose,
    Codes,
    Floats,
    Levels,
    Scales,
    integers,
    near,
)

_E2M1 = np.array([-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12], np.float32)


@dataclass(frozen=True)
class GgmlGrid:
    """A scalar type of ggml. What it encodes is uint8 [R, bytes of a row].

    `group` numbers share a scale, and an offset where the type has one; `known` is the level by
    which the scale is read, a power of two, so that nothing is rounded.
    """

    name: str
    levels: Levels
    group: int
    known: int
    has_offset: bool = False

    @property
    def groups(self) -> Groups:
        return Groups(self.group)

    def round(
        self, rows: Floats, encoded: Codes, factor: Factor, choose: Choose | None = None
    ) -> Codes:
        return round_with_feedback(rows, encoded, self, factor, choose)

    def choices(self, encoded: Codes, columns: int) -> Choices:
        own = self._own(encoded, columns)
        blocks = self._blocks(encoded)
        if self.name in SCALE_CODES:
            where = SCALE_CODES[self.name]
            found = where.unpack(blocks[:, where.start : where.stop])
            scale = self._near_codes(blocks, found.scale, 0, len(encoded))
            offset = own.offset[None]
            if found.offset is not None:
                offset = -self._near_codes(blocks, found.offset, 1, len(encoded))
            return Choices(scale, offset)
        if self.name in HALVES:
            span = np.float32(np.ptp(self.levels.values))
            scale = _as_halves(near(own.scale, own.scale * np.float32(SPAN_STEP) / span))
            offset = own.offset[None]
            if self.has_offset:
                offset = _as_halves(near(own.offset, own.scale * np.float32(OFFSET_STEP)))
            return Choices(scale, offset)
        if self.name in BYTES:
            groups, most = BYTES[self.name]
            codes = blocks[:, :groups].astype(np.int32) + np.array(STEPS).reshape(-1, 1, 1)
            scale = self._byte_scales[np.clip(codes, 0, most)]
            return Choices(scale.reshape(len(STEPS), *own.scale.shape), own.offset[None])
        return Choices(own.scale[None], own.offset[None])

    def with_numbers(self, encoded: Codes, codes: Codes, scales: Scales) -> Codes:
        kind = ggml_type(self.name)
        blocks = with_codes(self._blocks(encoded), self.name, codes.reshape(-1, kind.block))
        if self.name in SCALE_CODES:
            where = SCALE_CODES[self.name]
            before = where.unpack(blocks[:, where.start : where.stop])
            scale = _codes_of(scales.scale, where.unit(blocks, 0), before.scale)
            offset = None
            if before.offset is not None:
                offset = _codes_of(-scales.offset, where.unit(blocks, 1), before.offset)
            blocks[:, where.start : where.stop] = where.pack(GroupCodes(scale, offset))
        elif self.name in HALVES:
            for start, values in zip(HALVES[self.name], scales, strict=False):
                halves = values.reshape(-1, 1).astype("<f2")
                blocks[:, start : start + 2] = halves.view(np.uint8)
        elif self.name in BYTES:
            groups, _ = BYTES[self.name]
            found = np.searchsorted(self._byte_scales, scales.scale.reshape(-1, groups))
            blocks[:, :groups] = found.astype(np.uint8)
        return blocks.reshape(encoded.shape)

    @cached_property
    def _byte_scales(self) -> Floats:
        """[codes]: what each byte stands for as a scale, ascending."""
        groups, most = BYTES[self.name]
        kind = ggml_type(self.name)
        blocks = np.zeros((most + 1, kind.nbytes), np.uint8)
        blocks[:, :groups] = np.arange(most + 1)[:, None]
        return self._decode_level(blocks, kind.block, self.known)[:, 0] / np.float32(self.known)

    def _own(self, encoded: Codes, columns: int) -> Scales:
        """The scales and offsets that encoded rows hold."""
        known = self._decode_level(encoded, columns, self.known)
        if not self.has_offset:
            return Scales(known / np.float32(self.known), np.zeros_like(known))
        offset = self._decode_level(encoded, columns, 0)
        return Scales((known - offset) / np.float32(self.known), offset)

    def _decode_level(self, encoded: Codes, columns: int, level: int) -> Floats:
        """float32 [R, G]: the numbers of one level."""
        kind = ggml_type(self.name)
        shape = len(encoded), columns
        places = np.full((1, kind.block), np.searchsorted(self.levels.values, level), np.uint8)
        same = with_codes(self._blocks(encoded), self.name, places)
        decoded = decode(same.reshape(encoded.shape), self.name, shape)
        return np.ascontiguousarray(decoded[:, :: self.group])

    def _near_codes(self, blocks: Codes, found: object, number: int, rows: int) -> Floats:
        """float32 [tried, R, G]: a unit of the blocks times codes near those found."""
        where = SCALE_CODES[self.name]
        codes = np.asarray(found, np.int32) + np.array(STEPS).reshape(-1, 1, 1)
        numbers: Floats = np.clip(codes, where.least, where.most).astype(np.float32)
        numbers *= where.unit(blocks, number)
        return numbers.reshape(len(STEPS), rows, -1)

    def _blocks(self, encoded: Codes) -> Codes:
        return encoded.reshape(-1, ggml_type(self.name).nbytes)


def _as_halves(values: Floats) -> Floats:
    """As float16 holds them, none of them infinite."""
    return np.clip(values, -LARGEST_HALF, LARGEST_HALF).astype(np.float16).astype(np.float32)


def _codes_of(values: Floats, unit: Floats, before: object) -> NDArray[np.int32]:
    """[B, n]: the codes whose unit gives these values; those before where the unit is zero."""
    by_block = values.reshape(len(unit), -1)
    found = np.divide(by_block, unit, where=unit != 0, out=np.zeros_like(by_block))
    return np.where(unit != 0, np.rint(found).astype(np.int32), np.asarray(before, np.int32))


GGML_GRIDS: Mapping[str, GgmlGrid] = {
    grid.name: grid
    for grid in (
        GgmlGrid("Q4_0", integers(-8, 7), 32, -8),
        GgmlGrid("Q4_1", integers(0, 15), 32, 8, has_offset=True),
        GgmlGrid("Q5_0", integers(-16, 15), 32, -16),
        GgmlGrid("Q5_1", integers(0, 31), 32, 16, has_offset=True),
        GgmlGrid("Q8_0", integers(-127, 127), 32, 64),
        GgmlGrid("Q2_K", integers(0, 3), 16, 2, has_offset=True),
        GgmlGrid("Q3_K", integers(-4, 3), 16, -4),
        GgmlGrid("Q4_K", integers(0, 15), 32, 8, has_offset=True),
        GgmlGrid("Q5_K", integers(0, 31), 32, 16, has_offset=True),
        GgmlGrid("Q6_K", integers(-32, 31), 16, -32),
        GgmlGrid("IQ4_NL", Levels(VALUES), 32, 1),
        GgmlGrid("IQ4_XS", Levels(VALUES), 32, 1),
        GgmlGrid("MXFP4", Levels(_E2M1), 32, 8),
        GgmlGrid("NVFP4", Levels(_E2M1), 16, 8),
    )
}
"""Every scalar type by its name."""
