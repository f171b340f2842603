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

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.calibration.device_grams import device_grams
from secateur.calibration.routing import ALL, Routing, Scored
from secateur.calibration.sketch import Sketch, sketch_of
from secateur.errors import FamilyError, NumericError
from secateur.forward.backends.host_copy import HostCopy
from secateur.forward.backends.torch_device import TorchDevice
from secateur.forward.expert_products import run_experts, widen_expert
from secateur.forward.norms import Known, Norm, detect_norm

OUTPUTS_LIMIT = 192 << 20
"""Bytes of experts' outputs held at once."""
GRAMS_LIMIT = 768 << 20
"""Bytes of Gram matrices held at once."""
_GRAM_TOKENS = 128
"""Tokens per Gram task: small, and fixed so that the bits do not depend on the workers."""


@dataclass(frozen=True)
class BlockError:
    """What the error of a layer's MoE block is made of, on sampled tokens, whoever is chosen; in
    the host's memory."""

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
    order: NDArray[np.int16]
    """[S, R]: each token's experts, best first"""
    choice: NDArray[np.float64]
    """[S, E]: what experts are ranked by; only with groups, else [0, 0]"""
    every_strength: NDArray[np.float64]
    """[S, E]: a_j; only where the rule divides by the sum of all, else [0, 0]"""
    experts: int
    routing: Routing
    hidden: int
    eps: float | None
    """the norm's, None without one"""


def most_tokens(ranks: int, *, norm: bool) -> int:
    """The largest sample whose Gram matrices stay within GRAMS_LIMIT."""
    return GRAMS_LIMIT // (4 * (ranks + 1) ** 2 * (2 if norm else 1))


def read_norm(module: nn.Module | None, known: Known | None = None) -> Norm | None:
    """The RMSNorm behind the block; `known` is detect_norm's. Raises FamilyError when the module
    computes another thing."""
    if module is None:
        return None
    norm = detect_norm(module, known)
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
) -> Tensor:
    """Run each token's first R experts on inputs [S, H]: P and M, float32 [V, S, R + 1, R + 1],
    where `order` is: int16 [S, R], those experts, best first.

    An expert that gives NaN or infinity raises NumericError, or with `skip_bad` adds nothing on
    that token. Where a `device` holds the experts and the inputs, they run there.
    Peak memory: 4 S R^2 bytes (8 with a norm; see `most_tokens`), OUTPUTS_LIMIT, and one expert
    in float32 per worker. The result does not depend on the number of workers.
    """
    ranks = order.shape[-1]
    sketch = sketch_of(inputs.shape[-1], norm, inputs.device)
    if device is not None:
        return device_grams(device, experts, sketch, inputs, order, skip_bad=skip_bad)
    grams = torch.zeros(sketch.views, len(inputs), ranks + 1, ranks + 1)
    with (
        one_thread(),
        ThreadPoolExecutor(
            max(1, workers), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool,
    ):
        run = _Run(experts, sketch, order, skip_bad)
        for start, outputs in run.outputs(inputs, pool):

            def work(first: int, start: int = start, outputs: Tensor = outputs) -> None:
                some = outputs[:, first : first + _GRAM_TOKENS]
                place = slice(start + first, start + first + some.shape[1])
                grams[:, place, :-1, :-1] = some @ some.mT

            list(pool.map(work, range(0, outputs.shape[1], _GRAM_TOKENS)))
    return grams


@contextmanager
def one_thread() -> Iterator[None]:
    """torch takes one thread inside: where it cuts its work decides the last bits of exp()."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
    grams: Tensor, prepared: tuple[Routing, Scored], hidden: int, norm: Norm | None
) -> Callable[[], BlockError]:
    """Put the original's coefficients in: M u and u^T M u per token, where the scores are.

    What is returned waits for it and brings it to the host, in any thread. It raises NumericError
    when the rule does not reproduce what the model did, or an expert gave NaN or infinity.
    """
    routing, scored = prepared
    plain, weighted = grams[0], grams[-1]
    ranks = plain.shape[-1] - 1
    order = scored.order[:, :ranks].contiguous()
    first = order.long()
    strength = scored.strength.gather(1, first)
    raw, strength = (
        nn.functional.pad(part, (0, 1)) for part in (strength * scored.constants[first], strength)
    )
    chosen = scored.chosen
    used = raw.gather(1, chosen) / scored.over[:, None]
    rows = chosen[:, :, None].expand(-1, -1, ranks + 1)
    if norm is not None:
        columns = chosen[:, None, :].expand(-1, chosen.shape[-1], -1)
        block = plain.gather(1, rows).gather(2, columns)
        size = (block * used[:, :, None] * used[:, None, :]).sum((1, 2))
        used = used / torch.sqrt(size / hidden + norm.eps)[:, None]
    along = (weighted.gather(1, rows) * used[:, :, None]).sum(1)
    energy = (along.gather(1, chosen) * used).sum(-1)
    nothing = strength.new_empty(0, 0)
    choice = scored.choice if routing.groups > 1 else nothing
    every = scored.strength if routing.normalise == ALL else nothing
    parts = grams, along, raw, strength, energy, order, choice, every
    copies = [HostCopy(part) for part in parts]
    # No more than this is held until the error is asked for.
    check, experts = scored.check, scored.order.shape[-1]
    eps = None if norm is None else norm.eps

    def fetch() -> BlockError:
        check.complain()
        grams, along, raw, strength, energy, order, choice, every = (
            copy.wait().numpy() for copy in copies
        )
        if not np.isfinite(along).all():
            token = int(np.flatnonzero(~np.isfinite(along).all(-1))[0])
            raise NumericError(
                f"the experts' outputs for sampled token {token} hold NaN or infinity: mend the "
                "weights, or leave them out with --on-nan skip"
            )
        return BlockError(
            grams[0], grams[-1], along, raw, strength, energy, order, choice, every,
            experts, routing, hidden, eps,
        )  # fmt: skip

    return fetch
