"""Rotary positions in one pass over memory, in every family that computes just that.

Families write x * cos + rotate_half(x) * sin: five operations, whose results are there at the same
time. In a layer of full attention of a 26B model each takes 67 MB for a document of 2,048 tokens,
on every thread. Which function computes that is tried out to the last bit, not guessed by its name.

Shapes: B documents of L tokens, D numbers of a head.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.forward.kernels import rotate

_NAME = "apply_rotary_pos_emb"
"""What the function is called in each family's file of transformers. It takes one or two tensors of
states, cos and sin, and says with `unsqueeze_dim` where these lack an axis for the heads."""

Rotary = Callable[..., Any]


@contextmanager
def fuse_rotary(module: nn.Module) -> Iterator[None]:
    """Let one loop compute the rotary positions in a module's attention inside the block."""
    with ExitStack() as stack:
        for file in {sys.modules[type(part).__module__] for part in module.modules()}:
            own = getattr(file, _NAME, None)
            if own is not None and _is_usual(own):
                stack.callback(setattr, file, _NAME, own)
                setattr(file, _NAME, partial(_rotate_all, own))
        yield


def _rotate_all(own: Rotary, *given: Any, unsqueeze_dim: int = 1, **others: Any) -> Any:
    """What `own` gives, in one loop where that can do it."""
    *states, cos, sin = given
    if others or not _can_do(states, cos, sin, unsqueeze_dim):
        return own(*given, unsqueeze_dim=unsqueeze_dim, **others)
    found = []
    for one in states:
        rows = one.transpose(1, 2) if unsqueeze_dim == 1 else one
        turned = torch.empty_like(rows)
        into, values = (part.reshape(-1, *part.shape[2:]).numpy() for part in (turned, rows))
        rotate(into, values, cos[0].numpy(), sin[0].numpy())
        found.append(turned.transpose(1, 2) if unsqueeze_dim == 1 else turned)
    return found[0] if len(found) == 1 else tuple(found)


def _can_do(states: Sequence[Tensor], cos: Tensor, sin: Tensor, axis: int) -> bool:
    """Whether cos and sin are [1, L, D], the same for all documents, and all states lie in memory
    as [B, L, heads, D], seen with the heads as `axis`."""
    if axis not in (1, 2) or torch.is_grad_enabled() or any(one.dim() != 4 for one in states):
        return False
    rows = [one.transpose(1, 2) if axis == 1 else one for one in states]
    shapes = {(1, one.shape[1], one.shape[3]) for one in rows}
    fits = shapes == {tuple(cos.shape)} == {tuple(sin.shape)}
    return fits and all(map(_is_plain, (*rows, cos, sin)))


def _is_plain(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous()


@cache
def _is_usual(own: Rotary) -> bool:
    """Whether a function computes x * cos + rotate_half(x) * sin, wherever the heads are."""
    chance = torch.Generator().manual_seed(0)
    states = torch.randn(2, 3, 3, 8, generator=chance)
    cos, sin = torch.randn(2, 1, 3, 8, generator=chance)
    left, right = states.chunk(2, -1)
    halves = torch.cat([-right, left], -1)
    with torch.inference_mode():
        for axis in (1, 2):
            expected = states * cos.unsqueeze(axis) + halves * sin.unsqueeze(axis)
            found = _try(own, states, cos, sin, axis)
            if not found or not all(torch.equal(one, expected) for one in found):
                return False
    return True


def _try(own: Rotary, states: Tensor, cos: Tensor, sin: Tensor, axis: int) -> tuple[Tensor, ...]:
    """What a function gives of one tensor of states, or of the same one twice; () of others."""
    for count in (1, 2):
        try:
            found = own(*(states,) * count, cos, sin, unsqueeze_dim=axis)
        except (TypeError, ValueError, RuntimeError):
            continue
        found = found if isinstance(found, tuple) else (found,)
        if len(found) == count and all(isinstance(one, Tensor) for one in found):
            return found
    return ()
