"""From a user's request and statistics to the experts that stay, with the reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import PlanError
from secateur.pruning import rerouted
from secateur.pruning.criteria import AGGREGATIONS, CRITERIA, Gate, Scores, Settings, score
from secateur.pruning.selection import (
    Constraints,
    Keep,
    check_count,
    hints,
    kept_count,
    read_drop_map,
    select,
    super_experts,
)
from secateur.statistics.statistics import Statistics

CRITERION = rerouted.NAME
"""What is used when the user names none: it wins (benchmarks/criteria.json)."""

NAMES = (rerouted.NAME, *CRITERIA)
"""All criteria."""


@dataclass(frozen=True)
class Pruning:
    """How many experts stay, and by what criterion.

    Exactly one of `experts` (how many stay) and `drop` (share that goes) unless `drop_map` names
    a file that says it all. `protected` experts stay; `protect_super_experts` adds those whose
    activations stand out.
    """

    experts: int | None = None
    drop: float | None = None
    criterion: str = CRITERION
    aggregation: str = "pooled"
    gate: Gate = "true"
    protect_per_sample: int = 16
    seed: int = 0
    protected: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    protect_super_experts: bool = False
    drop_map: Path | None = None


@dataclass(frozen=True)
class Choice:
    """The experts that stay, how they were chosen (JSON-able), and what the user should know."""

    keep: Keep
    selection: Mapping[str, Any]
    notes: tuple[str, ...]


def scores_of(statistics: Statistics, request: Pruning) -> dict[int, Scores]:
    """{MoE layer: float64 [E]}: every expert's score by the request's criterion; higher stays.

    Raises PlanError for an unknown criterion, or one that these statistics cannot give.
    """
    if request.criterion == rerouted.NAME:
        return rerouted.scores(statistics, request.aggregation)
    if request.criterion not in CRITERIA:
        raise PlanError(
            f"unknown criterion {request.criterion!r}: choose one of {', '.join(NAMES)}"
        )
    settings = Settings(request.gate, request.protect_per_sample, request.seed)
    return score(statistics, request.criterion, settings, request.aggregation)


def check_request(checkpoint: Checkpoint, request: Pruning) -> None:
    """Refuse what no statistics could make possible, before hours of calibration.

    Raises PlanError as `choose` would.
    """
    if request.criterion not in NAMES:
        raise PlanError(
            f"unknown criterion {request.criterion!r}: choose one of {', '.join(NAMES)}"
        )
    if request.aggregation not in AGGREGATIONS:
        raise PlanError(
            f"unknown aggregation {request.aggregation!r}: choose one of {', '.join(AGGREGATIONS)}"
        )
    if request.drop_map is not None:
        choose(checkpoint, None, request)
    else:
        limits = constraints_of(checkpoint, replace(request, protect_super_experts=False), None)
        check_count(kept_count(checkpoint.experts, keep=request.experts, drop=request.drop), limits)


def choose(checkpoint: Checkpoint, statistics: Statistics | None, request: Pruning) -> Choice:
    """Which experts of the checkpoint stay.

    Of a checkpoint that is no more than a config, the first ones stand in for those that
    statistics would choose. Raises PlanError when the request contradicts itself or the model, or
    needs statistics that are not there.
    """
    limits = constraints_of(checkpoint, request, statistics)
    if request.drop_map is not None:
        if request.experts is not None or request.drop is not None:
            raise PlanError("--drop-map says it all: leave --experts and --drop out")
        keep = read_drop_map(request.drop_map, checkpoint.experts, checkpoint.moe_layers)
        return Choice(keep, {"drop_map": request.drop_map.name}, _notes(checkpoint, keep))
    count = kept_count(checkpoint.experts, keep=request.experts, drop=request.drop)
    check_count(count, limits)
    if count == checkpoint.experts:
        everyone = tuple(range(checkpoint.experts))
        return Choice(dict.fromkeys(checkpoint.moe_layers, everyone), {"criterion": None}, ())
    if statistics is None and checkpoint.shape_only:
        return _stand_in(checkpoint, count, limits)
    if statistics is None:
        raise PlanError(
            f"choosing {count} of {checkpoint.experts} experts needs statistics: "
            "make them with `secateur calibrate` and name them with --stats, or give a --drop-map"
        )
    free = limits.groups == 1 and not limits.protected
    if request.criterion == rerouted.NAME and free:
        keep = rerouted.keep(statistics, count, request.aggregation)
    else:
        keep = select(scores_of(statistics, request), count, limits, _tokens(statistics))
    selection = {key: value for key, value in asdict(request).items() if value not in (None, {})}
    selection["experts"] = count
    selection["protected"] = {str(k): sorted(v) for k, v in limits.protected.items()}
    return Choice(keep, selection, _notes(checkpoint, keep))


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
        f"which experts stay is not decided: the first {count} of each layer stand in for them "
        "(the sizes are the same whichever stay)"
    )
    return Choice(keep, {"stand_in": True, "experts": count}, (note, *_notes(checkpoint, keep)))


def constraints_of(
    checkpoint: Checkpoint, request: Pruning, statistics: Statistics | None
) -> Constraints:
    """What the model's router and the user's protection demand of a selection."""
    groups = checkpoint.family.find(checkpoint.config, "groups")
    used = checkpoint.family.find(checkpoint.config, "used_groups")
    protected = {layer: set(experts) for layer, experts in request.protected.items()}
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
    return Constraints(
        experts=checkpoint.experts,
        top_k=checkpoint.top_k,
        groups=groups[1] if groups else 1,
        used_groups=used[1] if used else 1,
        protected=protected,
    )


def _tokens(statistics: Statistics) -> dict[int, NDArray[np.int64]]:
    return {layer: np.asarray(statistics.count(layer).sum(0)) for layer in statistics.layers}


def _notes(checkpoint: Checkpoint, keep: Keep) -> tuple[str, ...]:
    kept = len(next(iter(keep.values())))
    return tuple(hints(kept)) if kept != checkpoint.experts else ()
