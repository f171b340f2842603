"""Matrix products of many experts at once on a device: the quickest way is found by trying.

A grouped product hands all experts to one kernel and never makes the host wait; a loop multiplies
expert after expert, and is the only way where torch has no grouped product for the type, and where
weights are widened (an expert at a time). Both sum in float32; their last bits may differ, so the
grouped product is kept unless the loop is clearly quicker, and the choice is made once per shape.

Shapes: P rows sorted by expert, E experts, N and M inputs and outputs of a matrix.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Product = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(rows [P, N], matrices [E, N, M], ends int32 [E]) -> [P, M]: the rows of expert e end at ends[e],
and the last end is P."""

TRIES = 3
CLEARLY = 0.8
"""A loop that takes at most this share of the grouped product's time is used in its place."""


class GroupedProducts:
    """Products of experts on one device; remembers what was quickest."""

    def __init__(self) -> None:
        self._chosen: dict[tuple[Any, ...], Product] = {}

    def __call__(self, rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
        """[P, M] in the type of the rows."""
        if rows.dtype != matrices.dtype:
            return multiply_in_loop(rows, matrices, ends)
        # A few sizes stand for all: what is quickest does not change from one to the next.
        key = rows.dtype, tuple(matrices.shape), matrices.stride(), len(rows).bit_length()
        if key not in self._chosen:
            self._chosen[key] = _choose(rows, matrices, ends)
        return self._chosen[key](rows, matrices, ends)


def multiply_grouped(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """torch's grouped product."""
    product: Any = getattr(torch.nn.functional, "grouped_mm", None) or torch._grouped_mm
    return product(rows, matrices, offs=ends)  # type: ignore[no-any-return]


def multiply_in_loop(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """Expert after expert; matrices of another type are widened to that of the rows."""
    result = rows.new_empty(len(rows), matrices.shape[-1])
    start = 0
    for expert, end in enumerate(ends.tolist()):
        if end > start:
            torch.mm(rows[start:end], matrices[expert].to(rows.dtype), out=result[start:end])
        start = end
    return result


def _choose(rows: Tensor, matrices: Tensor, ends: Tensor) -> Product:
    try:
        grouped = _measure(multiply_grouped, rows, matrices, ends)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, RuntimeError):
        return multiply_in_loop  # not for this type, alignment or device
    loop = _measure(multiply_in_loop, rows, matrices, ends)
    return multiply_in_loop if loop < CLEARLY * grouped else multiply_grouped


def _measure(product: Product, rows: Tensor, matrices: Tensor, ends: Tensor) -> float:
    """Seconds of the quickest of a few tries."""
    product(rows, matrices, ends)
    seconds = []
    for _ in range(TRIES):
        wait_for(rows.device)
        begun = time.perf_counter()
        product(rows, matrices, ends)
        wait_for(rows.device)
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
