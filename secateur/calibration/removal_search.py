"""Our own pruning criterion: which experts a layer misses least, once its tokens are rerouted.

Other criteria score each expert by what it did; this one asks what the tokens get instead. On a
stratified sample of tokens it removes expert after expert, each time the one whose absence, with
its tokens at their next-best experts, changes the MoE block's output least (block_error.py).
The error is relative: 0 for the original, 1 for a block that gives nothing.

Tokens of rarely used experts count more (`balance_weights`): a calibration corpus never has the
mix of what the model will be used for, and what it seldom shows must not be pruned for that.

Greedy is enough: on gemmule no exchange of two experts improves its sets, and exchanges lead from
random sets to the same ones (docs/log.md has this and what else was tried).

Deterministic: of equals the lower expert number is removed first, sums have a fixed order, and
threads run experts or an objective each, whose results do not depend on their number.

Shapes: S tokens, E experts, R ranks (a token's experts, best first), K chosen, C categories,
H hidden, I expert width.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.calibration.block_error import (
    BlockError,
    against_original,
    make_grams,
    one_thread,
)
from secateur.calibration.removal_kernels import (
    BY_ALL,
    BY_NONE,
    BY_POOLED,
    BY_SELECTED,
    BY_WORST,
    TOGETHER,
    errors_of,
    list_candidates,
    remove_all,
    update,
)
from secateur.calibration.removal_state import Rule, State, Tokens, list_holders
from secateur.calibration.routing import (
    ALL,
    NONE,
    SELECTED,
    Routing,
    apply_rule,
    rank_experts,
)
from secateur.calibration.sketch import CHANNELS
from secateur.forward.backends.host_copy import HostCopy
from secateur.forward.backends.torch_device import TorchDevice
from secateur.forward.norms import Norm

BALANCE = 0.5
"""How much a token counts: its experts' share of all choices to the power of minus this. Higher
values serve unseen domains better and the calibrated mix worse (measured in docs/log.md)."""
_RAREST = 1 / 64
"""Share of choices, where 1 is the mean, below which an expert counts as no rarer."""

Objective = Literal["pooled", "worst"]
"""What is minimised: the relative error over all tokens, or that of the worst category."""


@dataclass(frozen=True)
class LayerSample:
    """What sampled tokens brought to one MoE layer."""

    inputs: Tensor
    """float32 [S, H]: what the experts see; on a device, in the pass's own type"""
    scores: Tensor
    """float32 [S, E]: router logits (logarithms, where the router returns probabilities)"""
    experts: Tensor
    """int64 [S, K]: what the model chose"""
    gates: Tensor
    """float32 [S, K]: the coefficients that it used"""
    categories: Tensor
    """int64 [S]"""
    weights: Tensor
    """float32 [S]: weight of each token in the error"""


@dataclass(frozen=True)
class Removal:
    """Which experts are kept, for every count; row n is for n experts kept.

    Rows below the router's fewest are empty (`keep` False, errors NaN). With grouped experts only
    rows whose n the groups divide are of use: groups shrink in turn. Row n is the n experts of
    highest score (per group, n / G of each), so a constrained selection may go by the scores.
    """

    keep: NDArray[np.bool_]
    """[E + 1, E]"""
    errors: NDArray[np.float64]
    """[E + 1]: relative squared error over all tokens, weighted as in the search"""
    errors_by_category: NDArray[np.float64]
    """[E + 1, C]: the same inside each category; 0 for a category without tokens"""
    scores: NDArray[np.float64]
    """[E]: place in the order of removal, higher = keep"""


def solve_layer(
    experts: nn.Module,
    norm: Norm | None,
    routing: Routing,
    sample: LayerSample,
    *,
    categories: int,
    workers: int,
    skip_bad: bool = False,
) -> dict[Objective, Removal]:
    """The removals of one layer for both objectives, from its experts and a sample of its tokens.

    The arguments are those of `prepare_search`.
    """
    prepared = prepare_search(
        experts, norm, routing, sample, categories=categories, workers=workers, skip_bad=skip_bad
    )
    return prepared().solve(workers)


def prepare_search(
    experts: nn.Module,
    norm: Norm | None,
    routing: Routing,
    sample: LayerSample,
    *,
    categories: int,
    workers: int,
    skip_bad: bool = False,
    device: TorchDevice | None = None,
) -> Callable[[], Search]:
    """Do all that needs the weights; what is returned gives the search, in any thread.

    `norm` is the RMSNorm behind the block (`read_norm`), `skip_bad` and `device` are make_grams'.
    What is returned raises NumericError when the routing does not reproduce the sample's experts
    and gates.
    Memory and cost: `make_grams`, `count_flops`.
    """
    hidden, count = sample.inputs.shape[-1], sample.scores.shape[-1]
    with one_thread():
        ranked = rank_experts(routing, sample.scores, sample.experts)
        first = ranked.order[:, : routing.ranks(count)]
        grams = make_grams(
            experts, norm, sample.inputs, first, workers, skip_bad=skip_bad, device=device
        )
        scored = apply_rule(routing, ranked, sample.scores, sample.experts, sample.gates)
        fetch = against_original(grams, (routing, scored), hidden, norm)
    chosen, gates = HostCopy(sample.experts), HostCopy(sample.gates)
    # What is on a device is held no longer than this.
    nothing = torch.empty(0, count)
    rest = replace(sample, inputs=nothing, scores=nothing, experts=nothing, gates=nothing)

    def search() -> Search:
        error = fetch()
        seen = replace(rest, experts=chosen.wait(), gates=gates.wait())
        return Search(error, seen.categories.numpy(), balance_weights(seen), categories)

    return search


def balance_weights(sample: LayerSample) -> NDArray[np.float64]:
    """float64 [S]: weights of the tokens, higher where their experts are rare in the sample.

    The sample's own weight times sum_k p_k f_k^-BALANCE: p_k the share of the token's
    coefficients that expert k has, f_k the expert's share of all choices over the mean share.
    """
    experts, gates = sample.experts.numpy(), np.abs(sample.gates.numpy().astype(np.float64))
    count = sample.scores.shape[-1]
    often = np.bincount(experts.reshape(-1), minlength=count) * (count / experts.size)
    factor = np.maximum(often, _RAREST) ** -BALANCE
    share = gates / np.maximum(gates.sum(-1, keepdims=True), np.finfo(np.float64).tiny)
    return np.asarray((share * factor[experts]).sum(-1) * sample.weights.double().numpy())


def count_flops(
    ranks: int, tokens: int, hidden: int, width: int, *, gated: bool, norm: bool
) -> float:
    """Floating point operations of one layer: `ranks` experts on each token, Gram matrices."""
    views, channels = (2 if norm else 1), min(hidden, CHANNELS)
    products = 2.0 * tokens * ranks * width * (hidden * (2 if gated else 1) + views * channels)
    return products + 2.0 * tokens * ranks**2 * views * channels


class Search:
    """Sets of survivors of one layer, evaluated on its sample.

    `share` is [C]: what each category has of the weighted energy of the block's outputs; `tokens`
    and `rule` are what the kernels take.
    """

    def __init__(
        self,
        error: BlockError,
        categories: NDArray[np.int64],
        weights: NDArray[np.float64],
        count: int,
    ) -> None:
        self.routing, self.experts = error.routing, error.experts
        self.tokens = Tokens(
            error.plain, error.weighted, error.along, error.raw, error.strength, error.energy,
            error.order, error.choice, error.every_strength, categories, weights,
            *list_holders(error.order, error.experts),
        )  # fmt: skip
        self.rule = _rule_of(error)
        energy = np.bincount(categories, weights * error.energy, count)
        self._energy = np.where(energy > 0, energy, 1.0)
        self.share = energy / max(float(energy.sum()), np.finfo(np.float64).tiny)

    def solve(self, workers: int) -> dict[Objective, Removal]:
        """The removals for both objectives, together as long as they remove the same experts."""
        begun = self._begin()
        self._remove(begun, TOGETHER)
        objectives: tuple[Objective, ...] = ("pooled", "worst")

        def finish(objective: Objective) -> Removal:
            return self._finish(begun.copy(), objective)

        with ThreadPoolExecutor(min(len(objectives), max(1, workers))) as pool:
            return dict(zip(objectives, pool.map(finish, objectives), strict=True))

    def remove(self, objective: Objective) -> Removal:
        """Greedy removal from all experts down to the fewest that the router can do with."""
        return self._finish(self._begin(), objective)

    def state(self, alive: NDArray[np.bool_]) -> State:
        """Evaluate a set of survivors."""
        tokens, experts, categories = len(self.tokens.energy), self.experts, len(self.share)
        groups = self.routing.groups
        relevant = self.routing.top_k + (groups * self.routing.group_best if groups > 1 else 0)
        kept = 1 + relevant if self.rule.normalise == BY_ALL else 1
        state = State(
            alive.copy(),
            np.zeros(tokens, np.int16),
            np.full((tokens, relevant), -1, np.int16),
            np.zeros((tokens, 4, kept)),
            np.zeros((tokens, 1 + relevant)),
            np.ones(tokens),
            np.zeros(categories),
            np.zeros((categories, experts)),
        )
        update(self.tokens, self.rule, state, list_candidates(alive, groups), -1)
        return state

    def errors(self, state: State) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Relative error per category, [C], and after removing each expert as well, [C, E]."""
        return errors_of(state, self._energy)

    def _begin(self) -> _Begun:
        experts = self.experts
        return _Begun(
            self.state(np.ones(experts, np.bool_)),
            np.zeros((experts + 1, experts), np.bool_),
            np.full((experts + 1, len(self.share)), np.nan),
            np.zeros(experts),
        )

    def _finish(self, begun: _Begun, objective: Objective) -> Removal:
        self._remove(begun, BY_WORST if objective == "worst" else BY_POOLED)
        by_category = begun.by_category
        return Removal(begun.keep, by_category @ self.share, by_category, begun.scores)

    def _remove(self, begun: _Begun, objective: int) -> None:
        found = begun.keep, begun.by_category, begun.scores
        fewest, sizes = self.routing.fewest, (self._energy, self.share)
        remove_all(self.tokens, self.rule, begun.state, sizes, objective, fewest, found)


class _Begun(NamedTuple):
    """A removal on its way; the arrays are Removal's."""

    state: State
    keep: NDArray[np.bool_]
    by_category: NDArray[np.float64]
    scores: NDArray[np.float64]

    def copy(self) -> _Begun:
        state = State._make(part.copy() for part in self.state)
        return _Begun(state, self.keep.copy(), self.by_category.copy(), self.scores.copy())


def _rule_of(error: BlockError) -> Rule:
    routing = error.routing
    return Rule(
        routing.top_k,
        routing.groups,
        routing.used_groups,
        routing.group_best,
        {SELECTED: BY_SELECTED, ALL: BY_ALL, NONE: BY_NONE}[routing.normalise],
        error.hidden,
        -1.0 if error.eps is None else error.eps,
    )
