"""Logits from an output head that stays in its own float type, a slice of the vocabulary at a time.

Widened whole, the head of a 26B model with 262,144 tokens takes 2.95 GB. A slice that is widened
stays in the cache while it is multiplied, so this is no slower, and gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from secateur.errors import FamilyError

SLICE_ELEMENTS = 1 << 19
"""Numbers of a slice of the head, which are widened to float32 (2 MiB). With slices of 16 MiB the
product of 64 tokens took 1.2 to 1.35 times as long (widths 1,024 to 5,120, one thread)."""
_ROWS = 256
"""A slice has a multiple of so many rows, as kernels of matrix products like them."""


class OutputHead(NamedTuple):
    """y = x W^T, in float32, for a W in any float type."""

    weight: Tensor
    """[V, H]"""

    def __call__(self, hidden: Tensor) -> Tensor:
        """float32 [..., V] from float32 [..., H]. Memory: the result and one widened slice."""
        vocab, width = self.weight.shape
        flat = hidden.reshape(-1, width)
        result = flat.new_empty(len(flat), vocab)
        rows = max(_ROWS, SLICE_ELEMENTS // width // _ROWS * _ROWS)
        # One buffer for all slices: memory that is freed and mapped again costs page faults.
        buffer = flat.new_empty(min(rows, vocab), width)
        for start in range(0, vocab, rows):
            part = self.weight[start : start + rows]
            if part.dtype != torch.float32:
                part = buffer[: len(part)].copy_(part)
            torch.mm(flat, part.t(), out=result[:, start : start + rows])
        return result.reshape(*hidden.shape[:-1], vocab)


@contextmanager
def load_output_head(model: Any, name: str, weight: Tensor) -> Iterator[None]:
    """Let `model` make its logits with `weight` [V, H], the artefact's tensor `name`, inside the
    block. Raises FamilyError when its shape is another than the config's."""
    head = model.lm_head
    if weight.shape != head.weight.shape:
        raise FamilyError(
            f"tensor {name!r} has shape {list(weight.shape)}, but the model that config.json "
            f"describes expects {list(head.weight.shape)}: config and weights do not belong "
            "together"
        )
    head.forward = OutputHead(weight)
    try:
        yield
    finally:
        del head.__dict__["forward"]
