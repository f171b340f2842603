"""The grids of MLX's types."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint.tensors import NamedTensor, from_float32, to_float32
from secateur.formats.mlx.codec import MlxType, Quantized, pack
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

_E2M1 = np.array([-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_E2M1_CODES = np.array([15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7], np.uint8)

_MOST_BITS = 5
"""Beyond, a step of the scale is below what BF16 tells apart."""


@dataclass(frozen=True)
class MlxGrid:
    """A type of MLX. `dtype` is the float type of its scales and biases."""

    kind: MlxType
    dtype: str

    @property
    def levels(self) -> Levels:
        return Levels(_E2M1) if self.kind.mode == "mxfp4" else integers(0, 2**self.kind.bits - 1)

    @property
    def groups(self) -> Groups:
        return Groups(self.kind.group)

    def round(
        self, rows: Floats, encoded: Quantized, factor: Factor, choose: Choose | None = None
    ) -> Quantized:
        return round_with_feedback(rows, encoded, self, factor, choose)

    def choices(self, encoded: Quantized, columns: int) -> Choices:
        if encoded.biases is None:
            powers = encoded.scales.astype(np.int32) + np.array(STEPS[:3]).reshape(-1, 1, 1)
            scale = np.ldexp(np.float32(1), np.clip(powers, 0, 254) - 127)
            return Choices(scale, np.zeros_like(scale[:1]))
        scale, offset = self._widen(encoded.scales), self._widen(encoded.biases)
        if self.kind.bits > _MOST_BITS:
            return Choices(scale[None], offset[None])
        span = np.float32(2**self.kind.bits - 1)
        return Choices(
            self._stored(near(scale, scale * np.float32(SPAN_STEP) / span)),
            self._stored(near(offset, scale * np.float32(OFFSET_STEP))),
        )

    def with_numbers(self, encoded: Quantized, codes: Codes, scales: Scales) -> Quantized:
        numbers = _E2M1_CODES[codes] if encoded.biases is None else codes
        words = pack(numbers.reshape(-1, self.kind.group), self.kind.bits)
        changed = encoded._replace(codes=words.reshape(encoded.codes.shape))
        if encoded.biases is None:
            _, powers = np.frexp(scales.scale)
            return changed._replace(scales=(powers + 126).astype(np.uint8))
        return changed._replace(scales=self._store(scales.scale), biases=self._store(scales.offset))

    def _stored(self, tried: Floats) -> Floats:
        """As the type holds them; only F16 is too small for any that the encoder takes."""
        if self.dtype == "F16":
            tried = np.clip(tried, -LARGEST_HALF, LARGEST_HALF)
        return self._widen(self._store(tried))

    def _widen(self, stored: NDArray[np.generic]) -> Floats:
        return to_float32(NamedTensor("", self.dtype, stored))

    def _store(self, values: Floats) -> NDArray[np.generic]:
        return from_float32(values, self.dtype)
