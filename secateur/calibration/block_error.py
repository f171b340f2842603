"""What a change of experts does to the output of the MoE block, from inner products alone.

A token's block output is b = Y^T w: the experts' outputs Y [E, H] weighted by the coefficients.
After the block's RMSNorm with weight g (Gemma 4 has one) it is g * b / r, r^2 = |b|^2 / H + eps.
With the Gram matrices P = Y Y^T and M = (g Y)(g Y)^T of a token, both [E, E], the squared error
of other coefficients w' against the original u = w / r is

    (w'/r')^T M (w'/r') - 2 (w'/r')^T M u + u^T M u,      r'^2 = w'^T P w' / H + eps

(without a norm r = r' = 1 and P = M), so every expert that a token may fall to runs once on it,
and any set of survivors is then evaluated in O(K^2) numbers per token instead of a forward.

The outputs are sketched to d numbers each before the inner products are made (sketch.py), P and M
from sketches of their own.

A token's experts are numbered by rank, best first; only the first R run (`Routing.ranks`). Rank R
stands for all other experts and for no expert: it adds nothing. A token with fewer than K
survivors among its first R is evaluated as if it got no more than those.

Shapes: S tokens, E experts, R ranks, K chosen, H hidden, I expert width.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.calibration.device_grams import device_grams
from secateur.calibration.routing import Routing, Scored, choose, divisor
from secateur.calibration.sketch import Sketch, sketch_of
from secateur.errors import FamilyError, NumericError
from secateur.forward.backends.torch_device import TorchDevice
from secateur.forward.expert_products import run_experts, widen_expert
from secateur.forward.norms import Norm, detect_norm

OUTPUTS_LIMIT = 192 << 20
"""Bytes of experts' outputs held at once."""
GRAMS_LIMIT = 768 << 20
"""Bytes of Gram matrices held at once."""
_GRAM_TOKENS = 128
"""Tokens per Gram task: small, and fixed so that the bits do not depend on the workers."""


@dataclass(frozen=True)
class BlockError:
    """What the error of a layer's MoE block is made of, on sampled tokens, whoever is chosen."""

    plain: NDArray[np.float32]
    """[S, R + 1, R + 1]: P"""
    weighted: NDArray[np.float32]
    """[S, R + 1, R + 1]: M; the same array as `plain` without a norm"""
    along: NDArray[np.float64]
    """[S, R + 1]: M u"""
    raw: NDArray[np.float64]
    """[S, R + 1]: coefficients before normalisation"""
    strength: NDArray[np.float64]
    """[S, R + 1]: a_j"""
    energy: NDArray[np.float64]
    """[S]: u^T M u, the error of a block that gives nothing"""
    routing: Routing
    scored: Scored
    hidden: int
    eps: float | None
    """the norm's, None without one"""


def most_tokens(ranks: int, *, norm: bool) -> int:
    """The largest sample whose Gram matrices stay within GRAMS_LIMIT."""
    return GRAMS_LIMIT // (4 * (ranks + 1) ** 2 * (2 if norm else 1))


def read_norm(module: nn.Module | None) -> Norm | None:
    """The RMSNorm behind the block. Raises FamilyError when the module computes another thing."""
    if module is None:
        return None
    norm = detect_norm(module)
    if norm is None or not len(norm.weight):
        raise FamilyError(
            f"{type(module).__name__} behind the experts does not compute weight * x / rms(x)"
        )
    return norm


def make_grams(
    experts: nn.Module,
    norm: Norm | None,
    inputs: Tensor,
    order: Tensor,
    workers: int,
    *,
    skip_bad: bool = False,
    device: TorchDevice | None = None,
) -> NDArray[np.float32]:
    """Run each token's first R experts on inputs [S, H]: P and M, [V, S, R + 1, R + 1].

    `order`, int16 [S, R], has those experts, best first.

    An expert that gives NaN or infinity raises NumericError, or with `skip_bad` adds nothing on
    that token. Where a `device` holds the experts and the inputs, they run there.
    Peak memory: 4 S R^2 bytes (8 with a norm; see `most_tokens`), OUTPUTS_LIMIT, and one expert
    in float32 per worker. The result does not depend on the number of workers.
    """
    ranks = order.shape[-1]
    sketch = sketch_of(inputs.shape[-1], norm)
    if device is not None:
        return device_grams(device, experts, sketch, inputs, order, skip_bad=skip_bad)
    grams = np.zeros((sketch.views, len(inputs), ranks + 1, ranks + 1), np.float32)
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(
            max(1, workers), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            run = _Run(experts, sketch, order, skip_bad)
            for start, outputs in run.outputs(inputs, pool):

                def work(first: int, start: int = start, outputs: Tensor = outputs) -> None:
                    some = outputs[:, first : first + _GRAM_TOKENS]
                    place = slice(start + first, start + first + some.shape[1])
                    grams[:, place, :-1, :-1] = (some @ some.mT).numpy()

                list(pool.map(work, range(0, outputs.shape[1], _GRAM_TOKENS)))
    finally:
        torch.set_num_threads(threads)
    return grams


@dataclass(frozen=True)
class _Run:
    """The experts of a layer, run on the tokens whose first experts they are."""

    experts: Any
    sketch: Sketch
    order: Tensor
    """int16 [S, R]"""
    skip_bad: bool

    def outputs(self, inputs: Tensor, pool: ThreadPoolExecutor) -> Iterator[tuple[int, Tensor]]:
        """(first token, sketched outputs float32 [V, T, R, d] by rank) for chunks of the tokens."""
        sketch, count = self.sketch, self.order.shape[-1]
        size = OUTPUTS_LIMIT // (4 * count * sketch.views * sketch.channels)
        size = max(_GRAM_TOKENS, size - size % _GRAM_TOKENS)
        for start in range(0, len(inputs), size):
            some, order = (part[start : start + size] for part in (inputs, self.order))
            outputs = torch.empty(sketch.views, len(some), count, sketch.channels)
            flat = order.flatten().long()
            by_expert = torch.split(flat.argsort(stable=True), flat.bincount().tolist())

            def work(expert: int, places: Tensor, some: Tensor, outputs: Tensor) -> None:
                token, rank = places // count, places % count
                given = self._run_expert(expert, some[token])
                by_view = given.view(len(token), sketch.views, sketch.channels)
                outputs[:, token, rank] = by_view.transpose(0, 1)

            tasks = [
                pool.submit(work, expert, places, some, outputs)
                for expert, places in enumerate(by_expert)
                if len(places)
            ]
            for task in tasks:
                task.result()
            yield start, outputs

    def _run_expert(self, expert: int, inputs: Tensor) -> Tensor:
        """float32 [n, V * d]: the sketched outputs."""
        with torch.inference_mode():
            weights = widen_expert(self.experts, expert)
            after = getattr(self.experts, "has_post_expert_norm", False)
            weights = weights if after else self.sketch.before(weights)
            given = run_experts(self.experts, [weights], [len(inputs)], inputs)[1]
            given = self.sketch(given) if after else given
            if self.skip_bad:
                given = given.masked_fill(~torch.isfinite(given.sum(-1, True)), 0.0)
            return given


def against_original(
    grams: NDArray[np.float32],
    prepared: tuple[Routing, Scored],
    hidden: int,
    norm: Norm | None,
) -> BlockError:
    """Put the original's coefficients in: M u and u^T M u per token."""
    routing, scores = prepared
    plain, weighted = grams[0], grams[-1]
    ranks = plain.shape[-1] - 1
    first = scores.order[:, :ranks].astype(np.int64)
    raw, strength = (
        np.pad(np.take_along_axis(part, first, -1), ((0, 0), (0, 1)))
        for part in (scores.raw, scores.strength)
    )
    chosen = choose(routing, scores.choice, scores.ranks)
    over = divisor(routing, np.take_along_axis(strength, chosen, -1), scores.strength.sum(-1))
    used = np.take_along_axis(raw, chosen, -1) / over[:, None]
    if norm is not None:
        rows = np.take_along_axis(plain, chosen[:, :, None], 1)
        block = np.take_along_axis(rows, chosen[:, None, :], 2)
        size = (block * used[:, :, None] * used[:, None, :]).sum((1, 2))
        used = used / np.sqrt(size / hidden + norm.eps)[:, None]
    along = np.zeros(raw.shape)
    for slot in range(chosen.shape[-1]):
        row = np.take_along_axis(weighted, chosen[:, slot, None, None], 1)[:, 0]
        along += row * used[:, slot, None]
    energy = (np.take_along_axis(along, chosen, -1) * used).sum(-1)
    if not np.isfinite(along).all():
        token = int(np.flatnonzero(~np.isfinite(along).all(-1))[0])
        raise NumericError(
            f"the experts' outputs for sampled token {token} hold NaN or infinity: mend the "
            "weights, or leave them out with --on-nan skip"
        )
    eps = None if norm is None else norm.eps
    return BlockError(plain, weighted, along, raw, strength, energy, routing, scores, hidden, eps)
