"""What a change of experts does to the output of the MoE branch, from inner products alone.

A token's branch output is b = Y^T w: the experts' outputs Y [E, H] weighted by the coefficients.
After the branch's RMSNorm with weight g (Gemma 4 has one) it is g * b / r, r^2 = |b|^2 / H + eps.
With the Gram matrices P = Y Y^T and M = (g Y)(g Y)^T of a token, both [E, E], the squared error
of other coefficients w' against the original u = w / r is

    (w'/r')^T M (w'/r') - 2 (w'/r')^T M u + u^T M u,      r'^2 = w'^T P w' / H + eps

(without a norm r = r' = 1 and P = M), so every expert runs once on every sampled token and any
set of survivors is then priced in O(K^2) numbers per token instead of a forward.

Shapes: S tokens, E experts, K chosen, H hidden, I expert width.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.calibration.routing import Routing, Scored, divisor
from secateur.errors import FamilyError, NumericError
from secateur.forward.experts import expert_weights, run_expert

OUTPUTS_LIMIT = 192 << 20
"""Bytes of experts' outputs held at once."""
GRAMS_LIMIT = 768 << 20
"""Bytes of Gram matrices held at once."""
_GRAM_TOKENS = 16
"""Tokens per Gram task: small, and fixed so that the bits do not depend on the workers."""
_PAIRS = 1 << 16
"""Sets priced at once."""


class Norm(NamedTuple):
    """The RMSNorm that follows the MoE branch."""

    weight: Tensor
    """float32 [H]"""
    eps: float


class Terms(NamedTuple):
    """What the error of a set depends on, before the coefficients are normalised; float64 [...]."""

    size: NDArray[np.float64]
    """w'^T P w'"""
    measured: NDArray[np.float64]
    """w'^T M w'"""
    along: NDArray[np.float64]
    """w'^T M u"""
    strength: NDArray[np.float64]
    """sum of a_j over the set"""


@dataclass(frozen=True)
class BranchError:
    """Squared error of a layer's MoE branch for any chosen experts, on sampled tokens."""

    plain: NDArray[np.float32]
    """[S, E, E]: P"""
    weighted: NDArray[np.float32]
    """[S, E, E]: M; the same array as `plain` without a norm"""
    along: NDArray[np.float64]
    """[S, E]: M u"""
    energy: NDArray[np.float64]
    """[S]: u^T M u, the error of an empty branch"""
    routing: Routing
    scored: Scored
    hidden: int
    eps: float | None
    """the norm's, None without one"""

    def terms(self, token: NDArray[np.int64], chosen: NDArray[np.int64]) -> Terms:
        """Terms of sets `chosen` [P, K] for the tokens [P]."""
        parts = [
            self._terms(token[start : start + _PAIRS], chosen[start : start + _PAIRS])
            for start in range(0, max(1, len(token)), _PAIRS)
        ]
        return Terms(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _terms(self, token: NDArray[np.int64], chosen: NDArray[np.int64]) -> Terms:
        experts = self.plain.shape[-1]
        rows = token[:, None] * experts + chosen
        raw = self.scored.raw.reshape(-1).take(rows)
        cells = rows[:, :, None] * experts + chosen[:, None, :]
        pairs = raw[:, :, None] * raw[:, None, :]
        size = (self.plain.reshape(-1).take(cells) * pairs).sum((1, 2))
        measured = size
        if self.weighted is not self.plain:
            measured = (self.weighted.reshape(-1).take(cells) * pairs).sum((1, 2))
        along = (self.along.reshape(-1).take(rows) * raw).sum(1)
        return Terms(size, measured, along, self.scored.strength.reshape(-1).take(rows).sum(1))

    def price(
        self, terms: Terms, energy: NDArray[np.float64], total: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Squared error, [...], of priced sets; `total` is the sum of a_j over all survivors."""
        over = divisor(self.routing, terms.strength[..., None], total)
        scale = 1.0 / over
        if self.eps is not None:
            scale = scale / np.sqrt(scale**2 * terms.size / self.hidden + self.eps)
        error = scale**2 * terms.measured - 2.0 * scale * terms.along + energy
        return np.maximum(error, 0.0)


def most_tokens(experts: int, *, norm: bool) -> int:
    """The largest sample whose Gram matrices stay within GRAMS_LIMIT."""
    return GRAMS_LIMIT // (4 * experts**2 * (2 if norm else 1))


def read_norm(module: nn.Module | None) -> Norm | None:
    """Weight and eps of the RMSNorm behind the branch.

    Raises FamilyError when the module is not y = weight * x / sqrt(mean(x^2) + eps): it is tried
    out, because some families multiply by 1 + weight.
    """
    if module is None:
        return None
    weight: Any = getattr(module, "weight", None)
    eps: Any = getattr(module, "eps", getattr(module, "variance_epsilon", None))
    if not isinstance(weight, Tensor) or not isinstance(eps, float):
        raise FamilyError(f"{type(module).__name__} behind the experts is not an RMSNorm")
    norm = Norm(weight.detach().float(), eps)
    probe = torch.linspace(-1.0, 2.0, len(norm.weight)).unsqueeze(0)
    expected = norm.weight * probe * (probe.square().mean() + eps).rsqrt()
    with torch.inference_mode():
        if not torch.allclose(module(probe), expected, rtol=1e-4, atol=1e-6):
            raise FamilyError(
                f"{type(module).__name__} behind the experts does not compute weight * x / rms(x)"
            )
    return norm


def branch_error(
    experts: nn.Module,
    norm: Norm | None,
    inputs: Tensor,
    chosen: NDArray[np.int64],
    prepared: tuple[Routing, Scored],
    workers: int,
) -> BranchError:
    """Run all experts on inputs float32 [S, H] and keep the Gram matrices; `chosen` [S, K].

    Peak memory: 4 S E^2 bytes (8 with a norm; see `most_tokens`), OUTPUTS_LIMIT, and one expert
    in float32 per worker. The result does not depend on the number of workers.
    """
    routing, scores = prepared
    tokens, hidden = inputs.shape
    count = scores.strength.shape[-1]
    plain = np.empty((tokens, count, count), np.float32)
    weighted = plain if norm is None else np.empty_like(plain)
    with ThreadPoolExecutor(
        max(1, workers), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for start, outputs in _outputs(experts, inputs, count, pool):

            def work(first: int, start: int = start, outputs: Tensor = outputs) -> None:
                some = outputs[first : first + _GRAM_TOKENS]
                place = slice(start + first, start + first + len(some))
                torch.bmm(some, some.mT, out=torch.from_numpy(plain[place]))
                if norm is not None:
                    scaled = some * norm.weight
                    torch.bmm(scaled, scaled.mT, out=torch.from_numpy(weighted[place]))

            list(pool.map(work, range(0, len(outputs), _GRAM_TOKENS)))
    return _against_original(plain, weighted, chosen, prepared, hidden, norm)


def _outputs(
    experts: nn.Module, inputs: Tensor, count: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[int, Tensor]]:
    """(first token, outputs float32 [T, E, H]) for chunks of the tokens."""
    hidden = inputs.shape[-1]
    size = max(_GRAM_TOKENS, OUTPUTS_LIMIT // (4 * count * hidden))
    size -= size % _GRAM_TOKENS
    for start in range(0, len(inputs), size):
        some = inputs[start : start + size]
        outputs = torch.empty(len(some), count, hidden)

        def work(expert: int, some: Tensor = some, outputs: Tensor = outputs) -> None:
            with torch.inference_mode():
                outputs[:, expert] = run_expert(experts, expert_weights(experts, expert), some)[1]

        list(pool.map(work, range(count)))
        yield start, outputs


def _against_original(
    plain: NDArray[np.float32],
    weighted: NDArray[np.float32],
    chosen: NDArray[np.int64],
    prepared: tuple[Routing, Scored],
    hidden: int,
    norm: Norm | None,
) -> BranchError:
    """Put the original's coefficients in: M u and u^T M u per token."""
    routing, scores = prepared
    strength = np.take_along_axis(scores.strength, chosen, -1)
    over = divisor(routing, strength, scores.strength.sum(-1))
    used = np.take_along_axis(scores.raw, chosen, -1) / over[:, None]
    if norm is not None:
        rows = np.take_along_axis(plain, chosen[:, :, None], 1)
        block = np.take_along_axis(rows, chosen[:, None, :], 2)
        size = (block * used[:, :, None] * used[:, None, :]).sum((1, 2))
        used = used / np.sqrt(size / hidden + norm.eps)[:, None]
    rows = np.take_along_axis(weighted, chosen[:, :, None], 1)
    along = (rows * used[:, :, None]).sum(1)
    energy = (np.take_along_axis(along, chosen, -1) * used).sum(-1)
    if not np.isfinite(along).all():
        token = int(np.flatnonzero(~np.isfinite(along).all(-1))[0])
        raise NumericError(
            f"the experts' outputs for sampled token {token} hold NaN or infinity: "
            "the checkpoint's expert weights are damaged"
        )
    return BranchError(
        plain, weighted, along, energy, routing, scores, hidden, norm.eps if norm else None
    )
