"""From a user's request and statistics to the experts that are kept, with the reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import PlanError
from secateur.pruning.criteria.aggregations import POOLED, Scores
from secateur.pruning.criteria.base import Criterion, Gate, Settings, check_settings, score
from secateur.pruning.criteria.registry import DEFAULT, check_aggregation, find_criterion
from secateur.pruning.drop_map import read_drop_map
from secateur.pruning.selection import (
    Constraints,
    Keep,
    check_count,
    check_protected,
    check_share,
    hints,
    kept_count,
    router_constraints,
    select,
    super_experts,
)
from secateur.statistics.statistics import Statistics
from secateur.system.settings import check_least

ALL_KEPT = (
    "all {} experts of each layer are kept: neither a number of experts, nor a share to drop, nor "
    "a drop map is named"
)

_TOO_SMALL = (
    "a share of {share:g} of {experts} experts is less than one expert: all of each layer are kept"
)

_COUNTS = ("experts", "drop", "drop_map")


@dataclass(frozen=True)
class Pruning:
    """How many experts are kept, and by what criterion.

    At most one of `experts` (how many are kept), `drop` (the share that is pruned) and `drop_map`
    (a file with the whole selection); with none of them all experts are kept. `criterion` is a
    name (pruning.criteria.registry) or a Criterion; `routing_weight`, `aggregation`,
    `protect_per_sample` and `random_seed` are its settings (pruning.criteria.base, where the first
    is the gate). `protect` names experts to keep in any case, by layer;
    `protect_super_experts` adds those whose activations stand out.

    Raises PlanError for values that contradict each other, or cannot be.
    """

    experts: int | None = None
    drop: float | None = None
    criterion: str | Criterion = DEFAULT
    aggregation: str = POOLED
    routing_weight: Gate = "true"
    protect_per_sample: int = 16
    random_seed: int = 0
    protect: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    protect_super_experts: bool = False
    drop_map: Path | None = None

    def __post_init__(self) -> None:
        if len(self.counts) > 1:
            raise PlanError(
                f"{' and '.join(self.counts)} each say how many experts are kept: leave one out"
            )
        if self.drop_map is not None and (odd := self.chooses):
            raise PlanError(
                f"drop_map {self.drop_map} says which experts are kept: leave out {odd[0]}"
            )
        check_aggregation(self.aggregation)
        check_settings(find_criterion(self.criterion), self.settings)
        if self.drop is not None:
            check_share(self.drop)
        for name, least in (("experts", 1), ("random_seed", 0), ("protect_per_sample", 1)):
            check_least(name, getattr(self, name), least, PlanError)

    @property
    def counts(self) -> list[str]:
        """What says how many experts are kept: one name, or none where all are."""
        return [name for name in _COUNTS if getattr(self, name) is not None]

    @property
    def chooses(self) -> list[str]:
        """What is said of how they are chosen."""
        defaults = {one.name: one.default for one in fields(self) if one.name not in _COUNTS}
        defaults["protect"] = {}
        return [name for name, default in defaults.items() if getattr(self, name) != default]

    @property
    def settings(self) -> Settings:
        """What the criterion is asked with."""
        return Settings(
            self.routing_weight, self.aggregation, self.protect_per_sample, self.random_seed
        )


@dataclass(frozen=True)
class Choice:
    """The experts kept, how they were chosen (JSON-able), and what the user should know."""

    keep: Mapping[int, tuple[int, ...]]
    selection: Mapping[str, Any]
    notes: tuple[str, ...]


def scores_of(statistics: Statistics, request: Pruning) -> dict[int, Scores]:
    """{MoE layer: float64 [E]}: every expert's score by the request's criterion; higher is kept.

    Raises PlanError for an unknown criterion, or one that these statistics cannot give.
    """
    return score(statistics, find_criterion(request.criterion), request.settings)


def check_request(checkpoint: Checkpoint, request: Pruning) -> None:
    """Refuse what no statistics could make possible, before hours of calibration.

    Raises PlanError as `choose` would.
    """
    if request.drop_map is not None or not request.counts:
        choose(checkpoint, None, request)
    else:
        limits = constraints_of(checkpoint, replace(request, protect_super_experts=False), None)
        count = kept_count(checkpoint.experts, keep=request.experts, drop=request.drop)
        check_count(count, limits)
        for layer in limits.protected:
            check_protected(layer, count, limits)


def choose(checkpoint: Checkpoint, statistics: Statistics | None, request: Pruning) -> Choice:
    """Which experts of the checkpoint are kept.

    Of a checkpoint that is no more than a config, the first ones stand in for those that
    statistics would choose. Raises PlanError when the request contradicts itself or the model, or
    needs statistics that are not there.
    """
    limits = constraints_of(checkpoint, request, statistics)
    if not request.counts and (odd := request.chooses):
        raise PlanError(
            f"{odd[0]} decides nothing where all experts are kept: say how many are, with experts, "
            "drop or drop_map, or leave it out"
        )
    if request.drop_map is not None:
        keep = read_drop_map(request.drop_map, checkpoint.experts, checkpoint.moe_layers)
        return Choice(keep, {"drop_map": request.drop_map.name}, _notes(checkpoint, keep))
    count = kept_count(checkpoint.experts, keep=request.experts, drop=request.drop)
    check_count(count, limits)
    if count == checkpoint.experts:
        all_experts = tuple(range(checkpoint.experts))
        notes = () if request.counts else (ALL_KEPT.format(count),)
        if request.drop:
            notes = (_TOO_SMALL.format(share=request.drop, experts=count),)
        return Choice(dict.fromkeys(checkpoint.moe_layers, all_experts), {"criterion": None}, notes)
    if statistics is None and checkpoint.shape_only:
        return _stand_in(checkpoint, count, limits)
    if statistics is None:
        raise PlanError(
            f"choosing {count} of {checkpoint.experts} experts needs statistics: "
            "make them with `secateur calibrate` and name them with --stats, or give a --drop-map"
        )
    keep = select(scores_of(statistics, request), count, limits, _tokens(statistics))
    return Choice(keep, _describe(request, count, limits), _notes(checkpoint, keep))


def _describe(request: Pruning, count: int, limits: Constraints) -> dict[str, Any]:
    """The request as JSON, as a plan keeps it."""
    values = {entry.name: getattr(request, entry.name) for entry in fields(request)}
    described = {key: value for key, value in values.items() if value is not None}
    described["criterion"] = find_criterion(request.criterion).name
    described["experts"] = count
    described["protect"] = {str(k): sorted(v) for k, v in limits.protected.items()}
    return described


def first_experts(checkpoint: Checkpoint, count: int) -> dict[int, tuple[int, ...]]:
    """The first `count` experts of every layer (of every group of them), to know sizes by.

    Raises PlanError for a count that the model's router cannot have.
    """
    return _first(checkpoint, count, constraints_of(checkpoint, Pruning(), None))


def _first(checkpoint: Checkpoint, count: int, limits: Constraints) -> dict[int, tuple[int, ...]]:
    nothing = {layer: np.zeros(checkpoint.experts) for layer in checkpoint.moe_layers}
    return select(nothing, kept_count(checkpoint.experts, keep=count), limits)


def _stand_in(checkpoint: Checkpoint, count: int, limits: Constraints) -> Choice:
    """Experts for sizes only: without weights nothing can be decided."""
    keep = _first(checkpoint, count, limits)
    note = (
        f"which experts are kept is not decided: the first {count} of each layer stand in for them "
        "(the sizes are the same whichever are kept)"
    )
    return Choice(keep, {"stand_in": True, "experts": count}, (note, *_notes(checkpoint, keep)))


def constraints_of(
    checkpoint: Checkpoint, request: Pruning, statistics: Statistics | None
) -> Constraints:
    """What the model's router and the user's protection demand of a selection."""
    protected = {layer: set(experts) for layer, experts in request.protect.items()}
    if odd := sorted(set(protected) - set(checkpoint.moe_layers)):
        raise PlanError(f"layer {odd[0]} is protected, but has no routed experts")
    for layer, experts in protected.items():
        if bad := sorted(e for e in experts if not 0 <= e < checkpoint.experts):
            raise PlanError(
                f"expert {bad[0]} of layer {layer} is protected, but the model has experts "
                f"0 to {checkpoint.experts - 1}"
            )
    if request.protect_super_experts:
        if statistics is None:
            raise PlanError("protecting super experts needs statistics: name them with --stats")
        for layer, experts in super_experts(statistics).items():
            protected.setdefault(layer, set()).update(experts)
    return replace(router_constraints(checkpoint), protected=protected)


def _tokens(statistics: Statistics) -> dict[int, NDArray[np.int64]]:
    return {layer: np.asarray(statistics.count(layer).sum(0)) for layer in statistics.layers}


def _notes(checkpoint: Checkpoint, keep: Keep) -> tuple[str, ...]:
    kept = len(next(iter(keep.values())))
    return tuple(hints(kept)) if kept != checkpoint.experts else ()
