"""Which of the original's experts an artefact still has, found by its routers.

A router has a row for every expert. Pruning keeps rows as they are, and quantizing moves them by
far less than they are apart, so every row of the artefact is nearest to the one it was. That holds
for any file, whether or not it comes with a list of what was kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.forward.weights import WeightSource

_LIKENESS = 0.9
"""Least cosine between a row and the one that it was, both without the mean row."""

Kept = Mapping[int, tuple[int, ...]]
"""{layer: the original's number of each expert that is left}."""


def find_kept_experts(artefact: WeightSource, original: WeightSource) -> Kept | None:
    """The original's numbers of the artefact's experts, for every layer that has a router.

    None where it cannot be told: a row is like none of the original's, or two are like one.
    """
    theirs, ours = _routers(artefact), _routers(original)
    if theirs.keys() != ours.keys():
        return None
    kept = {}
    for layer, name in ours.items():
        found = _match(artefact.tensor(theirs[layer]), original.tensor(name))
        if found is None:
            return None
        kept[layer] = found
    return kept


def _routers(source: WeightSource) -> dict[int, str]:
    """{layer: running name of its router's matrix}."""
    places = {name: source.family.match(name) for name in source.names()}
    return {
        place.layer: name
        for name, place in sorted(places.items())
        if place is not None and place.role == "router" and place.layer is not None
    }


def _match(rows: Tensor, originals: Tensor) -> tuple[int, ...] | None:
    """The original [E, H] that each row [E', H] is like; None where that is not one each."""
    if rows.shape[-1] != originals.shape[-1]:
        return None
    mean = originals.double().mean(0)
    likeness = _directions(rows.double() - mean) @ _directions(originals.double() - mean).T
    best, nearest = likeness.max(-1)
    found = tuple(int(number) for number in nearest)
    if len(set(found)) < len(found) or bool((best < _LIKENESS).any()):
        return None
    return found


def _directions(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)
