"""How much each decoder layer matters: what recipes with tiers (`layers.py`) rank layers by.

Two measures are made from statistics:

    rerouted      the default: the error of the layer's MoE branch, relative and after the norm
                  that follows it, when half of its experts are gone and their tokens go to the
                  next best (calibration.removal_search); high where experts cannot replace each
                  other
    contribution  the mean over tokens of the summed gate times output norm of the experts chosen,
                  which card 001 (ManniX-ITA, ContribDynamic) names for its tiers

Neither is a sensitivity to rounding. `contribution` is a size: where a norm follows the experts,
sizes of two layers have no common unit. On gemmule (each layer alone in Q2_K, 6 layers) its order
is nearly the reverse of what that costs (rank correlation -0.71), that of `rerouted` is nearer
(0.60; chosen for it, so no proof: benchmarks/layer_importance.json).

A layer without routed experts has neither and ranks before all others: its weights serve every
token, and such layers are few. Numbers of any other origin come in a file: JSON with one number
per layer, higher is more important, as a list or by layer number:

    [9.1, 4.0, 3.2]        {"0": 9.1, "1": 4.0, "2": 3.2}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from secateur.errors import PlanError
from secateur.statistics.statistics import Statistics
from secateur.system.sizes import show_count
from secateur.system.text_files import read_json


def layer_importance(
    wanted: str | Path | None, statistics: Statistics | None, layers: int
) -> tuple[float, ...] | None:
    """[layers]: by a measure's name, or out of a file; None without statistics or file.

    Raises PlanError for a file that does not fit, or statistics that lack the measure. Without a
    request they may lack it: then it is not known, which matters only to recipes that ask for it.
    """
    if wanted is None:
        known = statistics is not None and _has_rerouted(statistics)
        return MEASURES[DEFAULT](statistics, layers) if statistics and known else None
    if str(wanted) not in MEASURES:
        return read_layer_importance(Path(wanted), layers)
    if statistics is None:
        raise PlanError(f"layer importance {str(wanted)!r} is measured: name statistics, or a file")
    return MEASURES[str(wanted)](statistics, layers)


def rerouted(statistics: Statistics, layers: int) -> tuple[float, ...]:
    """[layers]: relative error of the branch with half of the experts.

    Infinite for layers without routed experts. Raises PlanError for statistics without it.
    """
    if not _has_rerouted(statistics):
        raise PlanError(
            "the statistics hold no rerouted errors to rank layers by (merged, or calibrated with "
            "--reroute-tokens 0): calibrate again, or say --layer-importance contribution"
        )
    kept = max(statistics.top_k, statistics.experts // 2)
    return _by_layer(
        statistics, layers, lambda layer: float(statistics.arrays[_errors(layer)][kept])
    )


def contribution(statistics: Statistics, layers: int) -> tuple[float, ...]:
    """[layers]: mean over tokens of the summed |gate * output|.

    Infinite for layers without routed experts. Raises PlanError when no token was seen.
    """
    tokens = sum(statistics.tokens.values())
    if not tokens:
        raise PlanError("the statistics hold no tokens: layers cannot be ranked by them")
    return _by_layer(
        statistics, layers, lambda layer: float(statistics.array(layer, "gate_norm").sum()) / tokens
    )


DEFAULT = "rerouted"
MEASURES: Mapping[str, Callable[[Statistics, int], tuple[float, ...]]] = {
    "rerouted": rerouted,
    "contribution": contribution,
}


def _errors(layer: int) -> str:
    return f"layer.{layer}.rerouted.pooled.errors"


def _has_rerouted(statistics: Statistics) -> bool:
    return all(_errors(layer) in statistics.arrays for layer in statistics.layers)


def _by_layer(
    statistics: Statistics, layers: int, value: Callable[[int], float]
) -> tuple[float, ...]:
    moe = frozenset(statistics.layers)
    return tuple(value(layer) if layer in moe else math.inf for layer in range(layers))


def read_layer_importance(path: Path, layers: int) -> tuple[float, ...]:
    """[layers]: the numbers of a file. Raises PlanError naming what is wrong in it."""
    expected = f"the importance of layers as JSON, or one of {', '.join(MEASURES)}"
    given = read_json(path, expected, PlanError)
    if isinstance(given, dict):
        if sorted(given) != sorted(map(str, range(layers))):
            raise PlanError(
                f"{path} names {show_count(len(given), 'layer')}, expected exactly 0 to "
                f"{layers - 1}, each as "
                'a key in quotes with a number ({"0": 9.1, "1": 4.0, ...})'
            )
        given = [given[str(layer)] for layer in range(layers)]
    if not isinstance(given, list) or len(given) != layers:
        found = (
            show_count(len(given), "number")
            if isinstance(given, list)
            else f"a {type(given).__name__}"
        )
        raise PlanError(f"{path} holds {found}, expected a list of {layers}, one for each layer")
    for layer, value in enumerate(given):
        if type(value) not in (int, float) or not math.isfinite(value):
            raise PlanError(f"{path}: layer {layer} has {value!r}, expected a number")
    return tuple(map(float, given))
