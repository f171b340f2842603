"""What a criterion is: a name, the sums it needs by name, and scores from them.

A criterion gives every expert of a layer one score; the higher, the more it should be kept. Most
are a `Formula` of one layer's sums, pooled over the categories or scored per category and then
combined (`aggregations.py`). The list of them is `registry.py`.

Shapes: C categories, E experts, S samples (documents).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from secateur.errors import PlanError
from secateur.pruning.criteria.aggregations import AGGREGATIONS, POOLED, Scores
from secateur.statistics.statistics import Statistics

Gate = Literal["true", "reference"]
GATES: tuple[Gate, ...] = ("true", "reference")
_REFERENCE = {"gate": "reference_gate", "gate_norm": "reference_gate_norm"}
"""The sums that are read instead with the reference's routing weight."""


@dataclass(frozen=True)
class Settings:
    """What a user may choose about a criterion.

    `gate`: the routing weight that really multiplied the output, or the reference's; `aggregation`
    one of `AGGREGATIONS`. The others are of the criteria that name them (`own_settings`):
    `protect_per_sample` experts of `contribution`, `random_seed` of `random`.
    """

    gate: Gate = "true"
    aggregation: str = POOLED
    protect_per_sample: int = 16
    random_seed: int = 0


_OF_SOME = ("protect_per_sample", "random_seed")
"""The settings that a criterion reads only where it says so."""


class Criterion(Protocol):
    """What an expert is worth.

    `help` is one line for `--help`. `sums` are the arrays of the statistics that `score` reads, by
    name; `remedy` is what to do when they lack one. `aggregations` are the names that it knows,
    `own_settings` those of Settings that it reads besides; `unit` is that of a pooled score.
    """

    @property
    def name(self) -> str: ...
    @property
    def help(self) -> str: ...
    @property
    def sums(self) -> tuple[str, ...]: ...
    @property
    def remedy(self) -> str: ...
    @property
    def aggregations(self) -> tuple[str, ...]: ...
    @property
    def own_settings(self) -> tuple[str, ...]: ...
    @property
    def unit(self) -> str: ...

    def score(self, statistics: Statistics, layer: int, settings: Settings) -> Scores:
        """float64 [E]: one layer's scores; the sums and the aggregation are there."""


@dataclass(frozen=True)
class LayerSums:
    """One layer's sums over some categories, by name: `sums["gate_norm"]` is float64 [E].

    Sums of the kind `per_sample` are [S, E], with the samples of these categories. The sum of the
    kind `largest` is the maximum over the categories.
    """

    layer: int
    experts: int
    values: Mapping[str, NDArray[np.float64]]

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        return self.values[name]


@dataclass(frozen=True)
class Formula:
    """A criterion that scores each expert by a formula of its own sums."""

    name: str
    help: str
    sums: tuple[str, ...]
    formula: Callable[[LayerSums, Settings], Scores]
    remedy: str = "calibrate again with this version of secateur"
    aggregations: tuple[str, ...] = tuple(AGGREGATIONS)
    own_settings: tuple[str, ...] = ()
    unit: str = "none given"

    def score(self, statistics: Statistics, layer: int, settings: Settings) -> Scores:
        """float64 [E]: see Criterion."""

        def score_categories(categories: list[int]) -> Scores:
            sums = layer_sums(statistics, layer, self.sums, categories, settings.gate)
            return self.formula(sums, settings)

        combine = AGGREGATIONS[settings.aggregation].combine
        return combine(score_categories, len(statistics.categories))


def layer_sums(
    statistics: Statistics,
    layer: int,
    names: tuple[str, ...],
    categories: list[int],
    gate: Gate = "true",
) -> LayerSums:
    """One layer's sums `names` over the categories given by number."""
    values = {}
    for name in names:
        stored = _REFERENCE.get(name, name) if gate == "reference" else name
        array, kind = statistics.array(layer, stored), statistics.sums[stored]
        if kind == "per_sample":
            chosen = {statistics.categories[number] for number in categories}
            rows = [row for row, s in enumerate(statistics.samples) if s["category"] in chosen]
            values[name] = array[rows]
        elif kind == "largest":
            values[name] = array[categories].max(0)
        else:
            values[name] = array[categories].sum(0)
    return LayerSums(layer, statistics.experts, values)


def per_token(total: Scores, tokens: Scores) -> Scores:
    """The mean over an expert's tokens; 0 for an expert that saw none."""
    return np.asarray(np.divide(total, tokens, out=np.zeros_like(total), where=tokens > 0))


def check_settings(criterion: Criterion, settings: Settings) -> None:
    """Raise PlanError for a setting that the criterion does not know, or that decides nothing."""
    if settings.gate not in GATES:
        raise PlanError(f"routing_weight is {settings.gate!r}, expected {' or '.join(GATES)}")
    if settings.aggregation not in criterion.aggregations:
        raise PlanError(
            f"the criterion {criterion.name!r} knows the aggregations "
            f"{', '.join(criterion.aggregations)}, not {settings.aggregation!r}"
        )
    gates = {*_REFERENCE, *_REFERENCE.values()}
    if settings.gate == "reference" and gates.isdisjoint(criterion.sums):
        raise PlanError(
            f"the criterion {criterion.name!r} is not made of routing weights of the reference: "
            "leave out routing_weight (--routing-weight), or name another criterion"
        )
    for name in _OF_SOME:
        differs = getattr(settings, name) != getattr(Settings, name)
        if differs and name not in criterion.own_settings:
            raise PlanError(
                f"{name} (--{name.replace('_', '-')}) decides nothing for the criterion "
                f"{criterion.name!r}: leave it out, or name a criterion that reads it"
            )


def score(
    statistics: Statistics,
    criterion: Criterion,
    settings: Settings = Settings(),  # noqa: B008 - frozen
) -> dict[int, Scores]:
    """{MoE layer: float64 [E]}: what each expert is worth; higher is kept.

    Raises PlanError for settings that the criterion does not know (`check_settings`), for
    statistics that lack one of its sums, and for scores that are not one number an expert.
    """
    check_settings(criterion, settings)
    if lacking := [name for name in criterion.sums if not statistics.has(name)]:
        raise PlanError(
            f"these statistics lack {lacking[0]!r}, which the criterion {criterion.name!r} needs: "
            f"{criterion.remedy}, or name another criterion with --criterion"
        )
    found = {}
    for layer in statistics.layers:
        scores = criterion.score(statistics, layer, settings)
        if np.shape(scores) != (statistics.experts,) or np.isnan(scores).any():
            raise PlanError(
                f"the criterion {criterion.name!r} gives layer {layer} scores of shape "
                f"{list(np.shape(scores))}, {int(np.isnan(scores).sum())} of them NaN, expected "
                f"one number for each of {statistics.experts} experts: correct its formula"
            )
        found[layer] = scores
    return found
