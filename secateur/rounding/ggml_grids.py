"""The grids of ggml's scalar types.

Scales are read by decoding the block with the code of a known level everywhere: what llama.cpp
makes of the bytes is what counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from secateur.formats.ggml.code_layout import with_codes
from secateur.formats.ggml.codec import decode
from secateur.formats.ggml.search_kernels import VALUES
from secateur.formats.ggml.types import ggml_type
from secateur.rounding.grid import Codes, Floats, Levels, Scales, integers

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

    def scales(self, encoded: Codes, columns: int) -> Scales:
        known = self._decode_level(encoded, columns, self.known)
        if not self.has_offset:
            return Scales(known / np.float32(self.known), np.zeros_like(known))
        offset = self._decode_level(encoded, columns, 0)
        return Scales((known - offset) / np.float32(self.known), offset)

    def with_codes(self, encoded: Codes, codes: Codes) -> Codes:
        kind = ggml_type(self.name)
        blocks = encoded.reshape(-1, kind.nbytes)
        changed = with_codes(blocks, self.name, codes.reshape(-1, kind.block))
        return changed.reshape(encoded.shape)

    def _decode_level(self, encoded: Codes, columns: int, level: int) -> Floats:
        """float32 [R, C / group]: the numbers of one level."""
        place = int(np.searchsorted(self.levels.values, level))
        shape = len(encoded), columns
        same = self.with_codes(encoded, np.full(shape, place, np.uint8))
        return np.ascontiguousarray(decode(same, self.name, shape)[:, :: self.group])


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
"""Every scalar type by its name. The others store several numbers under one code."""
