"""From scores to the experts that are kept: counts, protection, groups."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import PlanError
from secateur.families.router_limits import fewest_experts
from secateur.statistics.statistics import Statistics

Keep = Mapping[int, Sequence[int]]
"""{MoE layer: the experts that are kept, by their numbers in the source checkpoint, ascending}."""


@dataclass(frozen=True)
class Constraints:
    """What a selection must respect.

    `groups` experts lie next to each other in equal groups of which a token uses `used_groups`,
    ranked by the `group_best` best of each (DeepSeek's group-limited routing); 1 means no groups.
    `protected` experts are kept.
    """

    experts: int
    top_k: int
    groups: int = 1
    used_groups: int = 1
    group_best: int = 1
    protected: Mapping[int, Collection[int]] = field(default_factory=dict)


def router_constraints(checkpoint: Checkpoint) -> Constraints:
    """What the model's router demands of a selection."""
    family, config = checkpoint.family, checkpoint.config
    found = family.find(config, "groups")
    groups = found[1] if found and found[1] > 1 else 1
    used = family.find(config, "used_groups")
    return Constraints(
        experts=checkpoint.experts,
        top_k=checkpoint.top_k,
        groups=groups,
        used_groups=used[1] if used else groups,
        group_best=family.router.group_best,
    )


def kept_count(experts: int, *, keep: int | None = None, drop: float | None = None) -> int:
    """How many experts are kept: `keep` itself, or what is left after pruning int(E * drop).

    The reference counts the pruned ones and rounds down: 0.30 of 128 leaves 90, 0.20 leaves
    103. With neither all are kept. Raises PlanError when both are given, or one makes no sense.
    """
    if keep is None and drop is None:
        return experts
    if keep is not None and drop is not None:
        raise PlanError(
            "give one of how many experts are kept (--experts N, experts=N) and what share is "
            "pruned (--drop R, drop=R), not both"
        )
    if drop is not None:
        check_share(drop)
        return experts - int(experts * drop)
    if keep is None or not 1 <= keep <= experts:
        raise PlanError(f"--experts is {keep}, but the model has {experts} experts per layer")
    return keep


def check_share(drop: float) -> None:
    """Raises PlanError for a share of pruned experts that cannot be."""
    if not 0.0 <= drop < 1.0:
        hint = f" ({drop / 100:g}?)" if 1.0 < drop < 100.0 else ""
        raise PlanError(f"drop is {drop:g}, expected a share of at least 0 and less than 1{hint}")


def check_count(keep: int, limits: Constraints) -> None:
    """Raises PlanError when `keep` experts per layer would leave a router that cannot choose."""
    groups = limits.groups
    least = fewest_experts(limits.top_k, groups, limits.used_groups, limits.group_best)
    if groups > 1 and keep % groups:
        lower = keep - keep % groups
        choices = [count for count in (lower, lower + groups) if count >= least] or [least]
        raise PlanError(
            f"{keep} experts cannot be shared by {groups} groups of equal size: "
            f"keep {' or '.join(map(str, choices))}"
        )
    if keep >= least:
        return
    if groups == 1:
        raise PlanError(
            f"{keep} experts would be kept, but each token is sent to {limits.top_k}: "
            f"keep at least {least}"
        )
    raise PlanError(
        f"{keep} experts would leave {keep // groups} in each of {groups} groups, but a token "
        f"takes {limits.top_k} out of {limits.used_groups} groups, which are ranked by the best "
        f"{limits.group_best} of each: keep at least {least}"
    )


def check_protected(layer: int, keep: int, limits: Constraints) -> None:
    """Raises PlanError when more experts of a layer are protected than are kept."""
    size, share = limits.experts // limits.groups, keep // limits.groups
    places = [expert // size for expert in set(limits.protected.get(layer, ()))]
    for group in range(limits.groups):
        if (protected := places.count(group)) > share:
            raise PlanError(
                f"layer {layer} protects {protected} experts"
                f"{f' of group {group}' if limits.groups > 1 else ''}, but only {share} "
                "are kept: protect fewer, or keep more"
            )


def select(
    scores: Mapping[int, NDArray[np.float64]],
    keep: int,
    constraints: Constraints,
    tokens: Mapping[int, NDArray[np.int64]] | None = None,
) -> dict[int, tuple[int, ...]]:
    """The `keep` best experts of every layer, ascending.

    Of equal scores the expert with fewer `tokens` [E] is pruned first, then the higher number.
    Raises PlanError when the count, the groups or the protection cannot be met.
    """
    check_count(keep, constraints)
    chosen = {}
    for layer, values in scores.items():
        seen = tokens[layer] if tokens is not None else np.zeros(values.size, np.int64)
        safe = np.zeros(values.size, np.bool_)
        safe[list(constraints.protected.get(layer, ()))] = True
        best_first = np.lexsort((np.arange(values.size), -seen, -values, ~safe))
        size = values.size // constraints.groups
        share = keep // constraints.groups
        check_protected(layer, keep, constraints)
        kept: list[int] = []
        for group in range(constraints.groups):
            members = best_first[best_first // size == group]
            kept.extend(int(expert) for expert in members[:share])
        chosen[layer] = tuple(sorted(kept))
    return chosen


def super_experts(statistics: Statistics, *, everywhere: bool = False) -> dict[int, set[int]]:
    """Experts whose largest activation stands out, per layer.

    The reference's rule (Cerebras reap, model_util.py): above max(99.5 % quantile, a tenth of
    the largest) over all layers; in the first three quarters of the MoE layers unless
    `everywhere`. Unlike the reference, keyed by decoder layer.
    """
    layers = statistics.layers
    largest = np.stack([statistics.array(layer, "largest").max(0) for layer in layers])
    threshold = max(float(np.quantile(largest, 0.995)), float(largest.max()) / 10)
    last = len(layers) if everywhere else int(0.75 * len(layers))
    found = {
        layer: {int(e) for e in np.flatnonzero(largest[row] > threshold)}
        for row, layer in enumerate(layers[:last])
    }
    return {layer: experts for layer, experts in found.items() if experts}


def hints(keep: int) -> list[str]:
    """What a user of servers with expert parallelism should know about the count."""
    usual = [ranks for ranks in (2, 4, 8) if keep % ranks]
    if not usual:
        return []
    below, above = keep - keep % 8, keep - keep % 8 + 8
    return [
        f"{keep} experts per layer cannot be split evenly over {', '.join(map(str, usual))} "
        f"ranks: servers with expert parallelism prefer {f'{below} or ' if below else ''}{above}"
    ]
