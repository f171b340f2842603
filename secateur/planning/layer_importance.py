"""How much each decoder layer matters: what recipes with tiers (`layers.py`) rank layers by.

From statistics it is the layer's contribution: the mean over tokens of the sum, over the experts
chosen, of gate times output norm. Card 001 (ManniX-ITA, ContribDynamic) names this measure for its
tiers. A layer without routed experts has none and ranks before all others: its weights serve every
token, and there are few such layers.

It is a size, not a sensitivity. It does not say what rounding a layer costs; where a norm follows
the experts, sizes of two layers are not even of one unit. Numbers of any other origin come in a
file: JSON with one number per layer, higher is more important, as a list or by layer number:

    [9.1, 4.0, 3.2]        {"0": 9.1, "1": 4.0, "2": 3.2}
"""

from __future__ import annotations

import math
from pathlib import Path

from secateur.calibration.statistics import Statistics
from secateur.checkpoint import strict_json
from secateur.errors import PlanError


def layer_importance(
    file: Path | None, statistics: Statistics | None, layers: int
) -> tuple[float, ...] | None:
    """[layers]: of the file, else of the statistics, None without both. Raises PlanError."""
    if file is not None:
        return read_layer_importance(file, layers)
    return None if statistics is None else layer_contributions(statistics, layers)


def layer_contributions(statistics: Statistics, layers: int) -> tuple[float, ...]:
    """[layers]: per layer the mean over tokens of the summed |gate * output|.

    Infinite for layers without routed experts. Raises PlanError when no token was seen.
    """
    tokens = sum(statistics.tokens.values())
    if not tokens:
        raise PlanError("the statistics hold no tokens: layers cannot be ranked by them")
    found = [math.inf] * layers
    for layer in statistics.layers:
        found[layer] = float(statistics.sum(layer, "gate_norm").sum()) / tokens
    return tuple(found)


def read_layer_importance(path: Path, layers: int) -> tuple[float, ...]:
    """[layers]: the numbers of a file. Raises PlanError naming what is wrong in it."""
    try:
        given = strict_json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise PlanError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise PlanError(f"{path} is not usable JSON: {error}") from None
    if isinstance(given, dict):
        if sorted(given) != sorted(map(str, range(layers))):
            raise PlanError(
                f"{path} names {len(given)} layers, expected exactly 0 to {layers - 1}, each as "
                'a key in quotes with a number ({"0": 9.1, "1": 4.0, ...})'
            )
        given = [given[str(layer)] for layer in range(layers)]
    if not isinstance(given, list) or len(given) != layers:
        found = f"{len(given)} numbers" if isinstance(given, list) else f"a {type(given).__name__}"
        raise PlanError(f"{path} holds {found}, expected a list of {layers}, one for each layer")
    for layer, value in enumerate(given):
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise PlanError(f"{path}: layer {layer} has {value!r}, expected a number")
    return tuple(map(float, given))
