"""The named sums of a layer: what each holds, and how the same sum of two runs is combined.

A statistics file lists its own sums with their kinds, so files merge that hold sums of observers
which this version does not know.

Shapes: C categories, E experts, S samples (documents).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from secateur.statistics import exact

Kind = Literal["sum", "count", "largest", "per_sample"]
"""How a sum is stored, and combined:

    sum         int64 [2, C, E]  exact sums (statistics.exact); added
    count       int64 [C, E]     added
    largest     float32 [C, E]   the larger of the two
    per_sample  int64 [S, E]     units of SAMPLE_UNIT; one row per document, rows are added
"""

KINDS: tuple[Kind, ...] = ("sum", "count", "largest", "per_sample")

SAMPLE_UNIT = 2.0**-32

Array = NDArray[Any]

BUILT_IN: Mapping[str, Kind] = MappingProxyType(
    {
        "tokens": "count",
        "gate": "sum",
        "norm": "sum",
        "gate_norm": "sum",
        "squared_norm": "sum",
        "reference_gate": "sum",
        "reference_gate_norm": "sum",
        "largest": "largest",
    }
)
"""What every calibration sums over the tokens of an expert: their number; its coefficient g, the
L2 norm of its output |f|, g|f|, |f|^2; g and g|f| with the reference's routing weight (softmax of
the router's logits over the chosen experts, nothing else); and the largest absolute element of
its outputs."""


def shape_of(kind: Kind, categories: int, experts: int, samples: int) -> tuple[int, ...]:
    """The shape of a layer's array of a kind."""
    if kind == "sum":
        return (2, categories, experts)
    return (samples if kind == "per_sample" else categories, experts)


def value_of(kind: Kind, array: Array) -> NDArray[np.float64]:
    """float64 [C, E] (or [S, E]): the numbers that an array stands for."""
    if kind == "sum":
        return exact.value(array)
    return np.asarray(array * SAMPLE_UNIT if kind == "per_sample" else array, np.float64)


def combine(kind: Kind, left: Array, right: Array) -> Array:
    """The same sum of both runs, from arrays of one shape."""
    if kind == "largest":
        return np.maximum(left, right)
    return exact.add(left, right) if kind == "sum" else np.asarray(left + right)
