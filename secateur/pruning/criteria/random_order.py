"""A random order, as a control."""

from __future__ import annotations

import numpy as np

from secateur.pruning.criteria.aggregations import POOLED, Scores
from secateur.pruning.criteria.base import Formula, LayerSums, Settings


def _shuffle(sums: LayerSums, settings: Settings) -> Scores:
    """A permutation by `random_seed`, another in each layer."""
    generator = np.random.Generator(np.random.PCG64([settings.random_seed, sums.layer]))
    return generator.permutation(sums.experts).astype(np.float64)


RANDOM = Formula(
    "random",
    "a random order, as a control",
    (),
    _shuffle,
    aggregations=(POOLED,),
    own_settings=("random_seed",),
    unit="place in that order",
)
