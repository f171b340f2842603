"""What an observer is: a named sum over the token-expert assignments of a layer.

The built-in sums (statistics.sums.BUILT_IN) are made by one fused loop in every calibration
(calibration.layer_sums). An observer adds a sum of its own: a number per assignment, made of what
is noted of every assignment and, if it asks for that, of the expert's inputs and outputs. The list
of those that ship is `registry.py`.

Shapes: T tokens of a group, P assignments, C categories, E experts, S samples (documents).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.statistics import exact
from secateur.statistics.sums import SAMPLE_UNIT, Array, Kind

if TYPE_CHECKING:  # a help page that names the observers does not wait for torch
    from torch import Tensor

    from secateur.forward.expert_work import Tile

Values = NDArray[np.float64]


class Observations(NamedTuple):
    """What is noted of the assignments of a layer on a group, ascending by expert and token.

    All [P]: the token's place in the group, the expert, its routing weight g, the L2 norm |f| and
    largest absolute element of its output, and the reference's routing weight
    (group_observer.reference_gates).
    """

    token: NDArray[np.int64]
    expert: NDArray[np.int64]
    gate: Values
    norm: Values
    largest: NDArray[np.float32]
    reference_gate: Values


class Owners(NamedTuple):
    """Whose every token of a group is, padding included; int64 [T]: category and sample."""

    category: NDArray[np.int64]
    sample: NDArray[np.int64]


@dataclass(frozen=True)
class Observer:
    """A sum called `name` that is made on request.

    `value` gives what each assignment adds, [P], from the observations and the rows of `measure`.
    `measure` gives a number per row of a tile, [n], while the tile's inputs and outputs are there;
    it is called in several threads at the same time. Without it the rows are empty.
    `help` is one line for `--help`.
    """

    name: str
    help: str
    value: Callable[[Observations, Values], Values]
    kind: Kind = "sum"
    measure: Callable[[Tile], Tensor] | None = None

    def add(self, total: Array, seen: Observations, rows: Values, owners: Owners) -> Array:
        """The total [shape_of(kind)] with a group's assignments added, in their order."""
        values = np.asarray(self.value(seen, rows), np.float64)
        owner = (owners.sample if self.kind == "per_sample" else owners.category)[seen.token]
        if self.kind == "sum":
            shape = total.shape[1:]
            place = owner * shape[1] + seen.expert
            sums = np.bincount(place, values, shape[0] * shape[1]).astype(np.float64)
            return exact.add(total, exact.limbs(sums.reshape(shape)))
        if self.kind == "largest":
            np.maximum.at(total, (owner, seen.expert), values.astype(np.float32))
        else:
            unit = SAMPLE_UNIT if self.kind == "per_sample" else 1.0
            np.add.at(total, (owner, seen.expert), np.rint(values / unit).astype(np.int64))
        return total


def measured_rows(observers: Sequence[Observer], assignments: int) -> list[Values]:
    """Room for the rows of every observer, [P] or [0] each."""
    return [np.empty(assignments if one.measure else 0) for one in observers]
