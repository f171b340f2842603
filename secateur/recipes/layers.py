"""Which decoder layers a recipe's `layers` means.

    "0-4,10"        these layers (negative numbers count from the end: "-5--1")
    "first 5"       the first five; "last 5" the last five; "edge 5" both; "first 3, last 5"
    "high"          a tier of the recipe, by name

A tier is a list of layers as above, or a share of all layers: `{high: 0.03, middle: 0.23}` takes
the most important layers first, in the order of the tiers, rounds half up, and takes one layer at
least; whatever no tier takes has the name `rest`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from secateur.errors import PlanError

REST = "rest"
"""The name of the layers that no tier takes."""


def layers_named(text: str, count: int, tiers: Mapping[str, frozenset[int]]) -> frozenset[int]:
    """The layers, of `count`, that `text` means. Raises PlanError when it means nothing."""
    if text in tiers:
        return tiers[text]
    layers: set[int] = set()
    for part in text.split(","):
        if found := re.fullmatch(r"(first|last|edge) (\d{1,9})", part.strip()):
            n = min(int(found[2]), count)
            layers |= set(range(n)) if found[1] != "last" else set()
            layers |= set(range(count - n, count)) if found[1] != "first" else set()
            continue
        found = re.fullmatch(r"(-?\d{1,9})(?:-(-?\d{1,9}))?", part.strip())
        if found is None:
            names = f", or one of its tiers {', '.join(tiers)}" if tiers else ""
            raise PlanError(
                f"layers {text!r:.80}: expected numbers as in '0-4,10', 'first N', 'last N', "
                f"'edge N'{names}"
            )
        start = _from_end(found[1], count)
        stop = _from_end(found[2], count) if found[2] else start
        for layer in (start, stop):
            if not 0 <= layer < count:
                raise PlanError(f"layers {text!r:.80}: there is no layer {layer} among {count}")
        if stop < start:
            raise PlanError(
                f"layers {text!r:.80}: {part.strip()} ends before it begins among {count} layers: "
                "name the lower one first"
            )
        layers.update(range(start, stop + 1))
    return frozenset(layers)


def tiers_of(
    tiers: Mapping[str, str | float], count: int, importance: Sequence[float] | None
) -> dict[str, frozenset[int]]:
    """{tier: layers}, `rest` among them; `importance` has one number per layer, more is higher.

    Raises PlanError when a share is asked for and no importance is known, shares add up to more
    than all layers, tiers overlap, or one has the name of what is left.
    """
    if REST in tiers:
        raise PlanError(f"a tier cannot be called {REST!r}: that is what no other tier takes")
    found: dict[str, frozenset[int]] = {}
    order = sorted(range(count), key=lambda layer: -importance[layer]) if importance else None
    taken: set[int] = set()
    for name, wanted in tiers.items():
        if isinstance(wanted, float):
            if order is None:
                raise PlanError(
                    f"tier {name!r} takes a share of the layers by importance, which is not known: "
                    "name statistics with --stats (not merged, with rerouted errors), or a file or "
                    "`contribution` with --layer-importance"
                )
            if not 0 < wanted <= 1:
                raise PlanError(
                    f"tier {name!r} is {wanted}, expected a share of the layers from 0 to 1"
                )
            size = max(1, math.floor(wanted * count + 0.5))
            layers = frozenset([layer for layer in order if layer not in taken][:size])
        else:
            layers = layers_named(str(wanted), count, {})
        if both := sorted(taken & layers):
            raise PlanError(f"tier {name!r} names layer {both[0]}, which another tier has already")
        taken |= layers
        found[name] = layers
    if (shares := sum(share for share in tiers.values() if isinstance(share, float))) > 1 + 1e-9:
        raise PlanError(f"the tiers take a share of {shares:g} of the layers, expected at most 1")
    if tiers:
        found[REST] = frozenset(range(count)) - taken
    return found


def _from_end(text: str, count: int) -> int:
    layer = int(text)
    return layer + count if layer < 0 else layer
