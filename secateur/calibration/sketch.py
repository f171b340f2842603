"""Long vectors made short so that their inner products stay about the same.

A count sketch: channel h goes to place h mod d with a fixed random sign, and channels at one place
are added. Over the signs, the inner product of two sketches has the vectors' own as its mean, with
a relative error of about sqrt(2 / d) (Weinberger et al. 2009, arXiv 0902.2206, Lemma 2). That of a
sum over many tokens is far smaller (docs/log.md).

What is linear may be sketched before it is computed: the sketch of an expert's output is the
output of a down projection whose output channels are sketched, for a fraction of its cost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from secateur.forward.expert_products import ExpertWeights
from secateur.forward.norms import Norm

CHANNELS = 64
"""d. Wider vectors are sketched, others left as they are."""
_HOST = torch.device("cpu")


@dataclass(frozen=True)
class Sketch:
    """A linear map of vectors [..., H] to V sketches of d channels, [..., V * d].

    V is 1, or 2 behind a norm: of the vector, and of the vector times the norm's weight.
    """

    factors: Tensor
    """float32 [V, H]: signs, in the second row times the norm's weight"""
    hidden: int

    @property
    def views(self) -> int:
        """V."""
        return len(self.factors)

    @property
    def channels(self) -> int:
        """d."""
        return min(CHANNELS, self.hidden)

    def __call__(self, values: Tensor) -> Tensor:
        """float32 [..., V * d] of float32 [..., H]."""
        return self._shorten(values.reshape(-1, self.hidden).mT).mT.reshape(*values.shape[:-1], -1)

    def matrix(self) -> Tensor:
        """float32 [H, V * d]: `values @ matrix` is the sketch of values; quick where sums over
        places far apart are not, on a device."""
        numbers = torch.arange(self.hidden, device=self.factors.device)
        same = numbers[:, None] % self.channels == numbers[: self.channels]
        return (self.factors[:, :, None] * same).transpose(0, 1).reshape(self.hidden, -1)

    def before(self, weights: ExpertWeights) -> ExpertWeights:
        """An expert whose outputs are the sketches of those of another."""
        bias = None if weights.down_bias is None else self(weights.down_bias)
        return replace(weights, down=self._shorten(weights.down.mT).mT, down_bias=bias)

    def _shorten(self, columns: Tensor) -> Tensor:
        """float32 [V * d, n] of float32 [H, n]."""
        size = self.channels
        found = columns.new_empty(self.views, size, columns.shape[-1])
        for view, factors in zip(found, self.factors, strict=True):
            scaled = columns * factors[:, None]
            whole = len(scaled) - len(scaled) % size
            torch.sum(scaled[:whole].view(-1, size, columns.shape[-1]), 0, out=view)
            view[: len(scaled) - whole] += scaled[whole:]
        return found.flatten(0, 1)


def sketch_of(hidden: int, norm: Norm | None, device: torch.device = _HOST) -> Sketch:
    """The sketch of a layer's outputs [..., H], on the device where they are; the signs depend on
    H alone."""
    signs = _signs(hidden) if hidden > CHANNELS else torch.ones(hidden)
    factors = signs.to(device, non_blocking=True).repeat(1 if norm is None else 2, 1)
    if norm is not None and len(norm.weight):
        factors[1] *= norm.weight.to(device)
    return Sketch(factors, hidden)


def _signs(count: int) -> Tensor:
    """float32 [count]: 1 or -1, the top bit of a hash of the number (SplitMix64)."""
    mixed = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    top = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(63)).astype(np.float32)
    return torch.from_numpy(1.0 - 2.0 * top)
