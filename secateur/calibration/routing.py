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
from torch import Tensor

from secateur.errors import FamilyError, NumericError
from secateur.families.router_limits import fewest_experts
from secateur.families.schema import Family
from secateur.forward.backends.host_copy import HostCopy

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
    factors of the experts, found from the observed coefficients when None; either where the layer
    is.
    """

    score: str
    normalise: str
    top_k: int
    groups: int = 1
    used_groups: int = 1
    group_best: int = 1
    bias: Tensor | None = None
    constants: Tensor | None = None

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
    """The rule applied to a sample with all experts alive; tensors where the scores are."""

    strength: Tensor
    """float64 [S, E]: a_j of RouterRule (for softmax a_j / sum of a: the factor cancels or is 1)"""
    constants: Tensor
    """float64 [E]: c_j, so that c_j a_j is the coefficient before normalisation"""
    choice: Tensor
    """float64 [S, E]: what experts are ranked by"""
    order: Tensor
    """int16 [S, E]: experts from the first to the last"""
    chosen: Tensor
    """int64 [S, K]: ranks of the experts that each token gets, ascending"""
    over: Tensor
    """float64 [S]: D of RouterRule"""
    check: RuleCheck


@dataclass(frozen=True)
class RuleCheck:
    """Where the rule gives something else than what the model did, once it is asked for."""

    other_experts: HostCopy
    """bool [S]"""
    other_gates: HostCopy
    """bool [S, K]"""
    unknown: HostCopy
    """bool [E]: experts that no sampled token chose and whose factors cannot be told"""
    experts: tuple[Tensor, Tensor]
    """int64 [S, K]: by the rule, and by the model"""
    gates: tuple[Tensor, Tensor]
    """[S, K]: the coefficients of the model's experts by the rule, and by the model"""

    def complain(self) -> None:
        """Wait for the device; raises NumericError for the first thing that is wrong."""
        wrong = np.flatnonzero(self.other_experts.wait().numpy())
        if len(wrong):
            token = int(wrong[0])
            by_rule, chosen = (sorted(part[token].tolist()) for part in self.experts)
            raise NumericError(
                f"the router's rule chooses experts {by_rule} for sampled token {token}, but the "
                f"model chose {chosen} ({len(wrong)} of {len(self.experts[0])} tokens differ): the "
                "[router] entry of the family file is wrong"
            )
        places = np.argwhere(self.other_gates.wait().numpy())
        if len(places):
            token, slot = places[0].tolist()
            ruled, used = (float(part[token, slot]) for part in self.gates)
            raise NumericError(
                f"the router's rule gives expert {int(self.experts[1][token, slot])} the "
                f"coefficient {ruled:.6g} for sampled token {token}, but the model used "
                f"{used:.6g}: the [router] entry of the family file is wrong"
            )
        unknown = np.flatnonzero(self.unknown.wait().numpy())
        if len(unknown):
            raise NumericError(
                f"the factor of expert {unknown[0]} is not known: no sampled token chose it, and "
                "the experts' factors differ; pass them as constants"
            )


def routing_of(
    family: Family,
    config: Mapping[str, Any],
    bias: Tensor | None = None,
    constants: Tensor | None = None,
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
        choice = strength + routing.bias.to(choice.device)
    choice = choice.scatter(1, experts, choice.gather(1, experts) + _TIE)
    order = torch.sort(-choice, stable=True).indices
    return Ranked(choice, order.to(torch.int16))


def apply_rule(
    routing: Routing, ranked: Ranked, scores: Tensor, experts: Tensor, gates: Tensor
) -> Scored:
    """Apply the rule to logits [S, E] where they were ranked, and compare it with the model's
    choice [S, K]; waits for nothing."""
    where = ranked.order.device
    experts, gates, logits = experts.to(where), gates.to(where), scores.to(where).double()
    if routing.score == SOFTMAX:
        strength = (logits - logits.amax(-1, keepdim=True)).clamp_min_(_LOWEST).exp_()
        strength /= strength.sum(-1, keepdim=True)
    else:
        strength = 1.0 / (1.0 + torch.exp(-logits.clamp_min(_LOWEST)))
    chosen = choose(routing, ranked)
    ruled = ranked.order.gather(1, chosen).long()
    differ = (ruled.sort(-1).values != experts.sort(-1).values).any(-1)
    given = strength.gather(1, experts)
    over = divisor(routing, given, strength.sum(-1))
    ratio = gates.double() * over[:, None] / given
    constants, unknown = _constants(routing, ratio, experts, strength)
    expected = constants[experts]
    wrong = (ratio - expected).abs() > _GATE_TOLERANCE * expected.abs()
    # A softmax far in its tail has few digits in float32, and no weight: it proves nothing.
    wrong &= given > 1e-4 * given.amax(-1, keepdim=True)
    check = RuleCheck(
        HostCopy(differ),
        HostCopy(wrong),
        HostCopy(unknown),
        (ruled, experts),
        (expected * given / over[:, None], gates),
    )
    return Scored(strength, constants, ranked.choice, ranked.order, chosen, over, check)


def choose(routing: Routing, ranked: Ranked) -> Tensor:
    """int64 [S, K]: ranks of the experts that each token gets with all experts alive, ascending."""
    tokens, experts = ranked.order.shape
    ranks = torch.arange(experts, device=ranked.order.device)
    if routing.groups == 1:
        return ranks[: routing.top_k].expand(tokens, -1)
    allowed = _allowed(routing, ranked.choice).gather(1, ranked.order.long())
    return torch.where(allowed, ranks, experts).sort(-1).values[:, : routing.top_k]


def divisor(routing: Routing, strength: Tensor, total: Tensor) -> Tensor:
    """D of RouterRule, [...]: from the chosen strengths [..., K] and the sum of all alive [...]."""
    if routing.normalise == SELECTED:
        return strength.sum(-1)
    return total if routing.normalise == ALL else torch.ones_like(total)


def _allowed(routing: Routing, choice: Tensor) -> Tensor:
    """bool [S, E]: experts of the groups that the token may choose from."""
    tokens, experts = choice.shape
    size = experts // routing.groups
    best = choice.view(tokens, routing.groups, size).topk(routing.group_best, -1).values
    ranked = torch.sort(-best.sum(-1), stable=True).indices[:, : routing.used_groups]
    used = torch.zeros(tokens, routing.groups, dtype=torch.bool, device=choice.device)
    return used.scatter_(1, ranked, True).repeat_interleave(size, -1)


def _constants(
    routing: Routing, ratio: Tensor, experts: Tensor, strength: Tensor
) -> tuple[Tensor, Tensor]:
    """c_j of every expert, float64 [E], and which of them are not known, bool [E]: by the ratios
    [S, K] of what was observed to what the rule gives without them."""
    if routing.constants is not None:
        constants = routing.constants.to(strength.device)
        return constants, torch.zeros_like(constants, dtype=torch.bool)
    # A sum over a matrix, not over places of it: that one has a fixed order on a GPU too.
    total = torch.zeros_like(strength).scatter_(1, experts, ratio).sum(0)
    flat = experts.reshape(-1)
    seen = torch.zeros(len(total), dtype=torch.int64, device=flat.device)
    seen.scatter_add_(0, flat, torch.ones_like(flat))
    found, known = total / seen.clamp_min(1), seen > 0
    lowest = torch.where(known, found, torch.inf).amin()
    highest = torch.where(known, found, -torch.inf).amax()
    differ = highest - lowest > _GATE_TOLERANCE * found.abs().amax()
    constants = torch.where(known, found, found.sum() / known.sum())
    return constants, ~known & differ
