"""The grids of MLX's types."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint.tensors import NamedTensor, to_float32
from secateur.formats.mlx.codec import MlxType, Quantized, pack
from secateur.rounding.grid import Codes, Floats, Levels, Scales, integers

_E2M1 = np.array([-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_E2M1_CODES = np.array([15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7], np.uint8)


@dataclass(frozen=True)
class MlxGrid:
    """A type of MLX. `dtype` is the float type of its scales and biases."""

    kind: MlxType
    dtype: str

    @property
    def levels(self) -> Levels:
        return Levels(_E2M1) if self.kind.mode == "mxfp4" else integers(0, 2**self.kind.bits - 1)

    @property
    def group(self) -> int:
        return self.kind.group

    def scales(self, encoded: Quantized, columns: int) -> Scales:
        if encoded.biases is None:
            scale = np.ldexp(np.float32(1), encoded.scales.astype(np.int32) - 127)
            return Scales(scale, np.zeros_like(scale))
        return Scales(self._widen(encoded.scales), self._widen(encoded.biases))

    def with_codes(self, encoded: Quantized, codes: Codes) -> Quantized:
        numbers = _E2M1_CODES[codes] if encoded.biases is None else codes
        words = pack(numbers.reshape(-1, self.kind.group), self.kind.bits)
        return encoded._replace(codes=words.reshape(encoded.codes.shape))

    def _widen(self, stored: NDArray[np.generic]) -> Floats:
        return to_float32(NamedTensor("", self.dtype, stored))
