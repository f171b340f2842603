"""The router's rule in numbers: who is chosen, and with what coefficient, when experts are missing.

A router is a score per expert and a rule (`RouterRule`); this file applies the rule to recorded
scores with any set of experts alive, so that nothing has to be run again. The rule is checked
against what the model itself chose: a family file that describes its router wrongly is an error.

Shapes: S tokens, E experts, K chosen per token, G groups of experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.errors import FamilyError, NumericError
from secateur.families.router_limits import fewest_experts
from secateur.families.schema import Family

SELECTED, ALL, NONE = "selected", "all", "none"
SOFTMAX, SIGMOID = "softmax", "sigmoid"
_DEFAULT = {SOFTMAX: ALL, SIGMOID: NONE}
SPARE_RANKS = 2
"""Ranks that are run beyond the K chosen, where a quarter of K is not more."""
_LOWEST = -700.0
"""Smallest logit below the token's largest that exp() still tells from zero in float64."""
_TIE = 1e-5
"""Choice scores this close are a tie: float32 may order them either way."""
_GATE_TOLERANCE = 1e-3
"""Relative difference at which a coefficient no longer agrees with the rule."""


@dataclass(frozen=True)
class Routing:
    """How the router of one layer chooses: a family's RouterRule with the model's numbers.

    `score` is softmax or sigmoid, `normalise` selected, all or none (see RouterRule). Only the
    best `used_groups` of `groups` may be chosen from; a group counts as the sum of its
    `group_best` best. `bias` (float64 [E]) steers the choice only; `constants` (float64 [E]) are
    factors of the experts, found from the observed coefficients when None.
    """

    score: str
    normalise: str
    top_k: int
    groups: int = 1
    used_groups: int = 1
    group_best: int = 1
    bias: NDArray[np.float64] | None = None
    constants: NDArray[np.float64] | None = None

    def ranks(self, experts: int) -> int:
        """How many experts of a token, best first, are run to see what it falls to.

        Those further back hardly change the order of removal, even where three quarters of the
        experts go (docs/log.md). With group-limited choice a token may fall to any expert.
        """
        spare = max(SPARE_RANKS, self.top_k // 4)
        return experts if self.groups > 1 else min(experts, self.top_k + spare)

    @property
    def fewest(self) -> int:
        """The smallest number of experts with which the model still runs."""
        return fewest_experts(self.top_k, self.groups, self.used_groups, self.group_best)


class Ranked(NamedTuple):
    """The experts of a sample's tokens in the order in which the router would choose them."""

    choice: Tensor
    """float64 [S, E]: what experts are ranked by"""
    order: Tensor
    """int16 [S, E]: experts from the first to the last"""


class Scored(NamedTuple):
    """A sample's router scores, made ready for choosing among any set of experts."""

    strength: NDArray[np.float64]
    """[S, E]: a_j of RouterRule (for softmax a_j / sum of a: the factor cancels or is 1)"""
    raw: NDArray[np.float64]
    """[S, E]: c_j * a_j, the coefficient before normalisation"""
    choice: NDArray[np.float64]
    """[S, E]: what experts are ranked by"""
    ranks: NDArray[np.int16]
    """[S, E]: place of each expert in the token's order, 0 is the first"""
    order: NDArray[np.int16]
    """[S, E]: experts from the first to the last"""


def routing_of(
    family: Family,
    config: Mapping[str, Any],
    bias: NDArray[np.float64] | None = None,
    constants: NDArray[np.float64] | None = None,
) -> Routing:
    """The routing of a model's layers; `bias` and `constants` are the layer's own.

    Raises FamilyError when the family's rule or the config does not decide it.
    """
    rule = family.router
    if rule.score not in _DEFAULT:
        raise FamilyError(f"family {family.name!r}: unknown router score {rule.score!r}")
    normalise = rule.normalise
    if normalise not in (SELECTED, ALL, NONE):
        value = family.section(config)[1].get(normalise)
        if not isinstance(value, bool):
            raise FamilyError(
                f"config.json has {normalise} = {value!r}, expected true or false: the router's "
                "coefficients depend on it"
            )
        normalise = SELECTED if value else _DEFAULT[rule.score]
    groups, used = family.find(config, "groups"), family.find(config, "used_groups")
    return Routing(
        score=rule.score,
        normalise=normalise,
        top_k=family.number(config, "top_k"),
        groups=groups[1] if groups else 1,
        used_groups=used[1] if used else 1,
        group_best=rule.group_best,
        bias=bias,
        constants=constants,
    )


def rank_experts(routing: Routing, scores: Tensor, experts: Tensor) -> Ranked:
    """Rank the experts by logits [S, E], on the device where they are, and wait for nothing.

    The model's choice [S, K] comes first among ties, then the lower number.
    """
    if scores.device.type == "mps":  # which has no float64
        scores, experts = scores.cpu(), experts.cpu()
    choice = scores.double()
    if routing.bias is not None:
        # Without a bias the order is that of the logits, which do not underflow.
        strength = choice.softmax(-1) if routing.score == SOFTMAX else choice.sigmoid()
        choice = strength + torch.from_numpy(routing.bias).to(choice.device, non_blocking=True)
    choice = choice.scatter(1, experts, choice.gather(1, experts) + _TIE)
    order = torch.sort(-choice, stable=True).indices
    return Ranked(choice, order.to(torch.int16))


def apply_rule(
    routing: Routing,
    ranked: Ranked,
    scores: NDArray[np.float32],
    experts: NDArray[np.int64],
    gates: NDArray[np.float32],
) -> Scored:
    """Apply the rule to logits [S, E] and check it against the model's choice [S, K].

    Raises NumericError when the rule does not reproduce the experts or coefficients observed.
    """
    logits = scores.astype(np.float64)
    if routing.score == SOFTMAX:
        strength = np.exp(np.maximum(logits - logits.max(-1, keepdims=True), _LOWEST))
        strength /= strength.sum(-1, keepdims=True)
    else:
        strength = 1.0 / (1.0 + np.exp(-np.maximum(logits, _LOWEST)))
    choice, order = (part.cpu().numpy() for part in ranked)
    ranks = np.argsort(order, axis=-1, kind="stable").astype(np.int16)
    chosen = np.take_along_axis(order, choose(routing, choice, ranks), -1).astype(np.int64)
    same = (np.sort(chosen, -1) == np.sort(experts, -1)).all(-1)
    if not same.all():
        token = int(np.flatnonzero(~same)[0])
        raise NumericError(
            f"the router's rule chooses experts {sorted(chosen[token].tolist())} for sampled token "
            f"{token}, but the model chose {sorted(experts[token].tolist())} ({int((~same).sum())} "
            f"of {len(same)} tokens differ): the [router] entry of the family file is wrong"
        )
    constants = _constants(routing, strength, experts, gates)
    return Scored(strength, strength * constants, choice, ranks, order)


def choose(
    routing: Routing, choice: NDArray[np.float64], ranks: NDArray[np.int16]
) -> NDArray[np.int64]:
    """int64 [S, K]: ranks of the experts that each token gets, ascending.

    Dead experts have rank E; where fewer than K may be chosen, E fills up.
    """
    experts = ranks.shape[-1]
    if routing.groups > 1:
        ranks = np.where(_allowed(routing, choice, ranks < experts), ranks, experts)
    best = np.partition(ranks, routing.top_k - 1, axis=-1)[:, : routing.top_k]
    best.sort(axis=-1)
    return best.astype(np.int64)


def divisor(
    routing: Routing, strength: NDArray[np.float64], total: NDArray[np.float64]
) -> NDArray[np.float64]:
    """D of RouterRule, [...]: from the chosen strengths [..., K] and the sum of all alive [...]."""
    if routing.normalise == SELECTED:
        return np.asarray(strength.sum(-1))
    return total if routing.normalise == ALL else np.ones_like(total)


def _allowed(
    routing: Routing, choice: NDArray[np.float64], alive: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """bool [S, E]: alive experts of the groups that the token may choose from."""
    tokens, experts = choice.shape
    size = experts // routing.groups
    grouped = np.where(alive, choice, -np.inf).reshape(tokens, routing.groups, size)
    best = np.partition(grouped, size - routing.group_best, axis=-1)[..., -routing.group_best :]
    ranked = np.argsort(-best.sum(-1), axis=-1, kind="stable")[:, : routing.used_groups]
    used = np.zeros((tokens, routing.groups), np.bool_)
    np.put_along_axis(used, ranked, True, -1)
    return np.repeat(used, size, axis=-1) & alive


def _constants(
    routing: Routing,
    strength: NDArray[np.float64],
    experts: NDArray[np.int64],
    gates: NDArray[np.float32],
) -> NDArray[np.float64]:
    """c_j of every expert, float64 [E], in agreement with the coefficients observed."""
    count = strength.shape[-1]
    chosen = np.take_along_axis(strength, experts, -1)
    ratio = gates * divisor(routing, chosen, strength.sum(-1))[:, None] / chosen
    flat = experts.reshape(-1)
    seen = np.bincount(flat, minlength=count)
    found = np.bincount(flat, ratio.reshape(-1), count) / np.maximum(seen, 1)
    constants = found if routing.constants is None else routing.constants
    expected = constants[experts]
    wrong = np.abs(ratio - expected) > _GATE_TOLERANCE * np.abs(expected)
    # A softmax far in its tail has few digits in float32, and no weight: it proves nothing.
    wrong &= chosen > 1e-4 * chosen.max(-1, keepdims=True)
    if wrong.any():
        token, slot = (int(place[0]) for place in np.nonzero(wrong))
        raise NumericError(
            f"the router's rule gives expert {experts[token, slot]} the coefficient "
            f"{gates[token, slot] * expected[token, slot] / ratio[token, slot]:.6g} for sampled "
            f"token {token}, but the model used {gates[token, slot]:.6g}: "
            "the [router] entry of the family file is wrong"
        )
    if routing.constants is None and not seen.all():
        known = found[seen > 0]
        if np.ptp(known) > _GATE_TOLERANCE * np.abs(known).max():
            raise NumericError(
                f"the factor of expert {int(np.flatnonzero(seen == 0)[0])} is not known: no "
                "sampled token chose it, and the experts' factors differ; pass them as constants"
            )
        constants = np.where(seen > 0, found, known.mean())
    return constants
