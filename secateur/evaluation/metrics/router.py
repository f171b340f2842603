"""The routers: whether the artefact still sends a token to the experts that the original chose.

Where experts were pruned, those that are left are known by the original's numbers
(evaluation.kept_experts), and the part of the original's choice that is still there bounds the
agreement from above.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateur.evaluation.metrics.base import Metric, ScoredTokens, TokenArray, mean

UNIT = "fraction of experts"
BY_LAYER = "router_agreement_by_layer"


def _agreement(tokens: ScoredTokens) -> NDArray[np.float64]:
    """[n, L]: part of the K experts of the original that the artefact chose, too."""
    assert tokens.routing is not None  # else routed arrays are not computed
    original, artefact, _ = tokens.routing
    same = original[..., :, None] == artefact[..., None, :]
    found: NDArray[np.float64] = same.any(-1).mean(-1)
    return found


def _presence(tokens: ScoredTokens) -> NDArray[np.float64]:
    """[n]: part of the original's experts, over all layers, that the artefact has."""
    assert tokens.routing is not None
    found: NDArray[np.float64] = tokens.routing.is_there.mean((-1, -2))
    return found


ARRAYS = (
    TokenArray(BY_LAYER, np.float32, _agreement, routed=True, by_layer=True),
    TokenArray(
        "router_agreement", np.float32, lambda tokens: _agreement(tokens).mean(-1), routed=True
    ),
    TokenArray("chosen_experts_left", np.float32, _presence, routed=True),
)

AGREEMENT = Metric(
    name="router_agreement",
    title="router agreement",
    unit=UNIT,
    better="higher",
    help="part of the experts that the original chose for a token that the artefact chooses, too",
    statistic=mean("router_agreement"),
    is_share=True,
)

METRICS = (
    AGREEMENT,
    Metric(
        name="chosen_experts_left",
        title="chosen experts left",
        unit=UNIT,
        better=None,
        help="part of the experts that the original chose for a token that the artefact still has",
        statistic=mean("chosen_experts_left"),
        is_share=True,
    ),
)
