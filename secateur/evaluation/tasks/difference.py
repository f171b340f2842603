"""The interval of a difference of two rates on the same items, from the items that flipped.

The bootstrap knows nothing of what no item showed: where none flips it gives [0, 0], of five items
as of five thousand. The score interval does, and with the exact one around it an interval of single
answers holds 0 exactly where McNemar's exact test does not tell the two models apart.
"""

from __future__ import annotations

import math

from scipy import optimize, stats

from secateur.evaluation.intervals import CONFIDENCE, FEWEST_ANSWERS, Interval

_EDGE = 1e-12


def difference_interval(lost: int, gained: int, items: int) -> Interval:
    """(gained - lost) / items with its 95 % interval; without one below `FEWEST_ANSWERS` items."""
    value = (gained - lost) / items
    if items < FEWEST_ANSWERS:
        return Interval(value, None, None)
    low, high = score_interval(lost, gained, items)
    flipped = lost + gained
    if flipped:
        share = stats.binomtest(gained, flipped).proportion_ci(CONFIDENCE, method="exact")
        low = min(low, (2 * float(share.low) - 1) * flipped / items)
        high = max(high, (2 * float(share.high) - 1) * flipped / items)
    return Interval(value, low, high)


def score_interval(lost: float, gained: float, items: float) -> tuple[float, float]:
    """The 95 % score interval of (gained - lost) / items: Tango 1998, Statistics in Medicine 17,
    equation 9, as recommended by Fagerland, Lydersen & Laake 2014. Counts may be fractions."""
    bound = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    value = (gained - lost) / items

    def score(difference: float) -> float:
        """How many standard errors the items are from such a difference."""
        least = _least_flips(lost, gained, items, difference)
        variance = items * (2 * least + difference * (1 - difference))
        off = items * (value - difference)
        if not off:
            return 0.0
        return off / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, off)

    low, high = -1.0, 1.0
    if value > -1:
        low = optimize.brentq(lambda at: score(at) - bound, -1 + _EDGE, value)
    if value < 1:
        high = optimize.brentq(lambda at: score(at) + bound, value, 1 - _EDGE)
    return float(low), float(high)


def widened(interval: Interval, other: tuple[float, float]) -> Interval:
    """An interval that holds another one, too; none where there was none."""
    if interval.low is None or interval.high is None:
        return interval
    return Interval(interval.value, min(interval.low, other[0]), max(interval.high, other[1]))


def _least_flips(lost: float, gained: float, items: float, difference: float) -> float:
    """The most likely share of lost items where the difference is that: Tango's q21."""
    half = -lost - gained + (2 * items - gained + lost) * difference
    rest = -lost * difference * (1 - difference)
    return (math.sqrt(max(0.0, half**2 - 8 * items * rest)) - half) / (4 * items)
