"""Experts without data in an importance matrix: named, and handled as the user asks.

    uniform    all columns of such an expert count the same: what llama-quantize does, silently; the
            bytes are its bytes
    mean    the expert gets the mean of its layer: sums of squares over tokens, of all experts
            that saw any
    stop    refuse to plan

llama-quantize makes even types that need an importance matrix (IQ1 to IQ3_XXS) of uniform experts,
and they are hardly better than noise, so plans that do it warn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from secateur.errors import PlanError
from secateur.formats.imatrix.coverage import list_experts
from secateur.formats.imatrix.matrix import Imatrix, ImatrixEntry, find_layer
from secateur.recipes.llama_types import TypeChoice
from secateur.statistics.coverage import LEAST
from secateur.system.sizes import show_count

Policy = Literal["uniform", "stop", "mean"]

POLICIES: tuple[Policy, ...] = get_args(Policy)

Expert = tuple[int, int]
"""(layer, number in the unpruned model)."""

_CONSEQUENCE = {
    "uniform": "all their columns count the same, as in llama-quantize (--unseen-experts uniform)",
    "mean": "they get the mean of their layer's other experts (--unseen-experts mean)",
}


def describe_coverage(
    unseen: Sequence[Expert], few: Sequence[Expert], total: int, policy: Policy
) -> Iterator[str]:
    """What a plan notes of experts without data, and with fewer than LEAST tokens.

    Raises PlanError where the policy is to stop.
    """
    if unseen:
        what = f"{len(unseen)} of {total} experts kept have no data ({list_experts(unseen)})"
        if policy == "stop":
            raise PlanError(
                f"the importance matrix is incomplete: {what}: calibrate on more text of their "
                "kind, or choose --unseen-experts uniform or mean"
            )
        yield f"imatrix: {what}: {_CONSEQUENCE[policy]}"
    if few:
        yield (
            f"imatrix: {len(few)} of {total} experts kept saw fewer than {LEAST} tokens "
            f"({list_experts(few)})"
        )


def warn_of_unseen(
    format_id: str, choices: Sequence[TypeChoice], unseen: Sequence[Expert], policy: Policy
) -> list[str]:
    """The stronger note on a format: experts without data in types that are nothing without."""
    lacking = {layer for layer, _ in unseen}
    found = [
        choice
        for choice in choices
        if choice.needs_importance
        and "_exps." in choice.name
        and find_layer(choice.name) in lacking
    ]
    if not found:
        return []
    layers = {find_layer(choice.name) for choice in found}
    experts = [expert for expert in unseen if expert[0] in layers]
    kinds = ", ".join(sorted({choice.type for choice in found}))
    cure = "" if policy == "mean" else ", --unseen-experts mean"
    return [
        f"{format_id}: WARNING: {show_count(len(experts), 'expert')} without data "
        f"({list_experts(experts)}) written as {kinds}, which needs an importance matrix: expect "
        f"ruin (more text of their kind{cure} or a larger type mends it)"
    ]


def apply_policy(imatrix: Imatrix, policy: Policy) -> Imatrix:
    """The matrix with the policy applied; `uniform` and `stop` leave it as it is."""
    if policy != "mean":
        return imatrix
    entries = {name: _fill_unseen(entry) for name, entry in imatrix.entries.items()}
    return replace(imatrix, entries=entries)


def _fill_unseen(entry: ImatrixEntry) -> ImatrixEntry:
    """Matrices without data as one token with the mean of the others; nothing if all lack it."""
    seen = entry.counts > 0
    if seen.all() or not seen.any():
        return entry
    total = entry.in_sum2[seen].sum(0, dtype=np.float64)
    mean = (total / entry.counts[seen].sum(dtype=np.float64)).astype(np.float32)
    return ImatrixEntry(
        np.where(seen[:, None], entry.in_sum2, mean), np.where(seen, entry.counts, np.float32(1))
    )
