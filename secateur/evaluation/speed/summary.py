"""From turns to numbers: means with intervals, and ratios to the original, turn by turn.

Turns are few and machines are busy: what the machine did meanwhile is in both of a turn, so that
the ratio is surer than either number. Means are geometric, as times differ by factors, and
intervals are Student's over the logarithms; from fewer than three turns there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from secateur.evaluation.intervals import CONFIDENCE, Interval
from secateur.evaluation.measurement import Measurement
from secateur.evaluation.speed.turn import Turn

KIND = "speed"
_FEWEST = 3


class Quantity(NamedTuple):
    """A number of a turn, in its unit; None where the system does not tell."""

    unit: str
    of: Callable[[Turn], float | None]


QUANTITIES: Mapping[str, Quantity] = {
    "prefill_speed": Quantity("tokens per second", lambda turn: turn.prefill),
    "generation_speed": Quantity("tokens per second", lambda turn: turn.generation),
    "time_to_first_token": Quantity("seconds", lambda turn: turn.first_token),
    "prefill_cpu": Quantity(
        "CPU seconds per 1000 tokens", lambda turn: _per_1000(turn.prompt_cpu, turn.prompt_tokens)
    ),
    "generation_cpu": Quantity(
        "CPU seconds per 1000 tokens", lambda turn: _per_1000(turn.answer_cpu, turn.answer_tokens)
    ),
    "peak_memory": Quantity("bytes", lambda turn: turn.peak_memory),
}


def speed_measurements(turns: Sequence[Turn], engine: str) -> tuple[Measurement, ...]:
    """The mean of every quantity over turns; of memory the most. The engine is the domain.

    What the system does not tell, or a clock is too coarse to see, is left out.
    """
    found = []
    for name, quantity in QUANTITIES.items():
        values = [value for turn in turns if (value := quantity.of(turn))]
        if len(values) < len(turns):
            continue
        most = name == "peak_memory"
        interval = Interval(max(values), None, None) if most else geometric_mean(values)
        found.append(_measurement(name, interval, quantity.unit, len(values), engine))
    return tuple(found)


def speed_ratios(
    original: Sequence[Turn], artefact: Sequence[Turn], engine: str
) -> tuple[Measurement, ...]:
    """Every quantity of the artefact over the original's of the same turn, as a geometric mean."""
    found = []
    for name, quantity in QUANTITIES.items():
        pairs = [
            (quantity.of(one), quantity.of(other))
            for one, other in zip(original, artefact, strict=True)
        ]
        logs = [math.log(other / one) for one, other in pairs if one and other]
        if len(logs) < len(pairs):
            continue
        interval = _exponentials(logs)
        found.append(
            _measurement(f"{name}_ratio", interval, "of the original's", len(logs), engine)
        )
    return tuple(found)


def geometric_mean(values: Sequence[float]) -> Interval:
    """A geometric mean with its 95 % interval by Student's t; none of fewer than three values."""
    return _exponentials([math.log(value) for value in values])


def _exponentials(logs: Sequence[float]) -> Interval:
    """e to the mean of logarithms, and to its bounds."""
    from scipy import stats

    mean = fmean(logs)
    if len(logs) < _FEWEST:
        return Interval(math.exp(mean), None, None)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1))
    half = quantile * stdev(logs) / math.sqrt(len(logs))
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def _measurement(name: str, found: Interval, unit: str, turns: int, engine: str) -> Measurement:
    confidence = None if found.low is None else CONFIDENCE
    return Measurement(
        name, found.value, unit, {"turns": turns}, found.low, found.high, confidence, engine, KIND
    )


def _per_1000(seconds: float | None, tokens: int) -> float | None:
    return None if seconds is None else 1000 * seconds / tokens
