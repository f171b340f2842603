"""`inspect`: a model's shape by its headers or its config alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from secateur.api.models import Model, open_headers
from secateur.checkpoint.inspection import Inspection, PrunedSize, inspect_checkpoint
from secateur.checkpoint.reader import Checkpoint
from secateur.errors import PlanError
from secateur.planning.memory import context_memory
from secateur.pruning.selection import check_count, kept_count, router_constraints

SHARES = (0.125, 0.25, 0.375, 0.5)
"""Shares of the experts to drop, for which a model's size is shown unless numbers are named."""


def inspect(
    model: Model, revision: str | None = None, *, experts: Sequence[int] = ()
) -> Inspection:
    """Look at a model by its headers, or by its config alone. Reads no weights.

    `experts` are the numbers kept in each layer for which its size is wanted. Raises PlanError for
    one that its router cannot have.
    """
    checkpoint = open_headers(model, revision)
    found = inspect_checkpoint(checkpoint)
    counts = experts or tuple(_useful_counts(checkpoint))
    return replace(found, sizes=tuple(_size(checkpoint, found, count) for count in counts))


def _useful_counts(checkpoint: Checkpoint) -> Iterator[int]:
    for share in SHARES:
        count = kept_count(checkpoint.experts, drop=share)
        with suppress(PlanError):
            check_count(count, router_constraints(checkpoint))
            yield count


def _size(checkpoint: Checkpoint, found: Inspection, count: int) -> PrunedSize:
    kept = kept_count(checkpoint.experts, keep=count)
    check_count(kept, router_constraints(checkpoint))
    parameters, nbytes = found.with_experts(kept)
    if checkpoint.family.memory is None:
        return PrunedSize(kept, parameters, nbytes, None, None)
    memory = context_memory(checkpoint)
    return PrunedSize(kept, parameters, nbytes, nbytes + memory.bytes, memory.context)
