"""Coverage over samples of per-sample protection (card 001, ManniX-ITA 109e v3)."""

from __future__ import annotations

import numpy as np

from secateur.pruning.criteria.aggregations import Scores
from secateur.pruning.criteria.base import Formula, LayerSums, Settings


def _contribution(sums: LayerSums, settings: Settings) -> Scores:
    """The number of samples that protect the expert; ties go to the larger total.

    In each sample the experts are ranked by their summed |gate * output|, and the first
    `protect_per_sample` of those that did anything are protected. The total adds less than one.
    """
    norms = sums["sample_norms"]
    protect = min(settings.protect_per_sample, norms.shape[1])
    order = np.argsort(-norms, axis=1, kind="stable")[:, :protect]
    protected = np.zeros(norms.shape, np.bool_)
    np.put_along_axis(protected, order, values=True, axis=1)
    total = norms.sum(0)
    return np.asarray((protected & (norms > 0)).sum(0) + total / (1.0 + total.max(initial=0.0)))


CONTRIBUTION = Formula(
    "contribution",
    "number of samples in which the expert is among the most active",
    ("sample_norms",),
    _contribution,
    remedy="calibrate again with --observe sample_norms",
    own_settings=("protect_per_sample",),
    unit="samples",
)
