"""RMSNorm in one pass over memory, for every module that computes just that.

As families write it, it is eight operations, each of which reads and writes all hidden states; a
decoder layer may have a dozen of them, a fifth of the time of a narrow model's forward. Which
modules are RMSNorms is tried out, not guessed by name: some families multiply by 1 + weight,
others take a mean away, and those are left as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.forward.kernels import rms_norm

_ANY_WIDTH = 48
"""Width of the probe for a norm without a weight."""


class Norm(NamedTuple):
    """y = weight * x / sqrt(mean(x^2) + eps), the mean over the last axis."""

    weight: Tensor
    """float32 [H]; empty where there is none"""
    eps: float

    def __call__(self, values: Tensor) -> Tensor:
        """float32 [..., H] from float32 [..., H]; mean in float64."""
        values = values.contiguous()
        result = torch.empty_like(values)
        into = result.reshape(-1, values.shape[-1]).numpy()
        rms_norm(into, values.reshape(into.shape).numpy(), self.weight.numpy(), self.eps)
        return result


Known = dict[tuple[type, float, int], bool]
"""What detect_norm found out: {(class, eps, width): whether it is an RMSNorm}."""


def detect_norm(module: nn.Module, known: Known | None = None) -> Norm | None:
    """The RMSNorm that a module with loaded weights computes; None when it computes anything
    else. What is in `known` is not tried again: that makes the host wait for a GPU."""
    eps: Any = getattr(module, "eps", getattr(module, "variance_epsilon", None))
    parameters = dict(module.named_parameters())
    weight: Tensor = parameters.pop("weight", torch.empty(0)).detach().float()
    if not isinstance(eps, float) or parameters or weight.dim() != 1 or any(module.children()):
        return None
    known = {} if known is None else known
    key = type(module), eps, len(weight)
    if key not in known:
        known[key] = _is_rms_norm(module, Norm(weight, eps))
    return Norm(weight, eps) if known[key] else None


def _is_rms_norm(module: nn.Module, norm: Norm) -> bool:
    own = type(module).forward
    needed = [p for p in inspect.signature(own).parameters.values() if p.default is p.empty]
    if len(needed) != 2:  # itself and the hidden states
        return False
    width = len(norm.weight) or _ANY_WIDTH
    probe = torch.linspace(-1.0, 2.0, width, device=norm.weight.device).unsqueeze(0)
    with torch.inference_mode():
        # Numbers near zero show where eps is added, a large offset whether a mean is taken away.
        tried = torch.cat([probe, 1e-3 * probe, 50.0 * probe + 7.0])
        result = own(module, tried)
        expected = rms_norm_of(tried, norm)
        return isinstance(result, Tensor) and torch.allclose(result, expected, 1e-5, 1e-6)


def rms_norm_of(values: Tensor, norm: Norm) -> Tensor:
    """What `norm` computes, as one torch operation on any device; in the type of the values."""
    weight = norm.weight.to(values.dtype) if len(norm.weight) else None
    return nn.functional.rms_norm(values, values.shape[-1:], weight, norm.eps)


@contextmanager
def fuse_norms(
    module: nn.Module,
    run: Callable[[Tensor, Norm], Tensor] = lambda values, norm: norm(values),
    known: Known | None = None,
) -> Iterator[None]:
    """Let `run` compute all RMSNorms of a module with loaded weights inside the block.

    `known` is detect_norm's.
    """
    norms = {
        part: norm for part in module.modules() if (norm := detect_norm(part, known)) is not None
    }
    for part, norm in norms.items():
        part.forward = _replace_forward(norm, part.forward, run)
    try:
        yield
    finally:
        for part in norms:
            del part.__dict__["forward"]


def _replace_forward(
    norm: Norm, own: Callable[..., Any], run: Callable[[Tensor, Norm], Tensor]
) -> Callable[..., Any]:
    def forward(values: Tensor, *others: Any, **named: Any) -> Any:
        if others or named or values.dtype == torch.float64:
            return own(values, *others, **named)
        return run(values, norm)

    return forward
