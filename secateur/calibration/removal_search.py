"""Our own pruning criterion: which experts a layer misses least, once its tokens are rerouted.

Other criteria score each expert by what it did; this one asks what the tokens get instead. On a
stratified sample of tokens it removes expert after expert, each time the one whose absence, with
its tokens at their next-best experts, changes the MoE block's output least (block_error.py).
The error is relative: 0 for the original, 1 for a block that gives nothing.

Tokens of rarely used experts count more (`balance_weights`): a calibration corpus never has the
mix of what the model will be used for, and what it seldom shows must not be pruned for that.

Greedy is enough: on gemmule no exchange of two experts improves its sets, and exchanges lead from
random sets to the same ones (docs/log.md has this and what else was tried).

Deterministic: of equals the lower expert number is removed first, sums have a fixed order, and the
only threads run experts, whose results do not depend on their number.

Shapes: S tokens, E experts, R ranks (a token's experts, best first), K chosen, C categories,
H hidden, I expert width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.calibration.block_error import BlockError, Terms, block_error
from secateur.calibration.routing import ALL, Routing, apply_rule, choose
from secateur.forward.norms import Norm

_TINIEST = 1e-15
"""Share of a sum that is left at least when its largest part is taken away."""

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
    """float32 [S, H]: what the experts see"""
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


class _State(NamedTuple):
    """A set of survivors, and what each token gets: now, and with one expert less."""

    alive: NDArray[np.bool_]
    near: NDArray[np.int64]
    """[S, K + 1]: ranks of the chosen and of the next in line (with groups [S, K]: the chosen)"""
    now: Terms
    """[S]"""
    relevant: NDArray[np.int64]
    """[S, W]: experts whose removal changes what the token gets; -1 fills up"""
    without: Terms
    """[S, W]"""


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

    `norm` is the RMSNorm behind the block (`read_norm`), `skip_bad` is block_error's. Raises
    NumericError when the routing does not reproduce the sample's experts and gates. Memory and
    cost: `block_error`, `count_flops`.
    """
    chosen = sample.experts.numpy()
    prepared = apply_rule(routing, sample.scores.numpy(), chosen, sample.gates.numpy())
    error = block_error(
        experts, norm, sample.inputs, (routing, prepared), workers, skip_bad=skip_bad
    )
    search = Search(error, sample.categories.numpy(), balance_weights(sample), categories)
    return {"pooled": search.remove("pooled"), "worst": search.remove("worst")}


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
    products = 2.0 * tokens * ranks * hidden * width * (3 if gated else 2)
    return products + 2.0 * tokens * ranks**2 * hidden * (2 if norm else 1)


class Search:
    """Sets of survivors of one layer, evaluated on its sample."""

    def __init__(
        self,
        error: BlockError,
        categories: NDArray[np.int64],
        weights: NDArray[np.float64],
        count: int,
    ) -> None:
        self.error = error
        self.routing = error.routing
        self.experts = error.scored.order.shape[-1]
        self._ranks = error.plain.shape[-1] - 1
        self._categories = categories
        self._count = count
        self._weights = weights
        energy = np.bincount(categories, self._weights * error.energy, count)
        self._energy = np.where(energy > 0, energy, 1.0)
        self._share = energy / max(float(energy.sum()), np.finfo(np.float64).tiny)

    def remove(self, objective: Objective) -> Removal:
        """Greedy removal from all experts down to the fewest that the router can do with."""
        experts = self.experts
        keep = np.zeros((experts + 1, experts), np.bool_)
        by_category = np.full((experts + 1, self._count), np.nan)
        scores = np.zeros(experts)
        state = self.state(np.ones(experts, np.bool_))
        for kept in range(experts, self.routing.fewest - 1, -1):
            keep[kept] = state.alive
            by_category[kept] = self.errors(state)
            ordered = self.order_candidates(self.errors_without(state), state.alive, objective)
            if kept > self.routing.fewest:
                scores[ordered[0]] = experts - kept
                alive = state.alive.copy()
                alive[ordered[0]] = False
                state = self.state(alive, state)
            else:
                scores[ordered] = np.arange(experts - kept, experts)
        return Removal(keep, by_category @ self._share, by_category, scores)

    def errors(self, state: _State) -> NDArray[np.float64]:
        """Relative error of a set of survivors per category, [C]."""
        return self._sums(self._categories, self._now(state), self._count) / self._energy

    def errors_without(self, state: _State) -> NDArray[np.float64]:
        """Relative error per category after removing each expert as well, [C, E]."""
        energy, experts = self.error.energy, self.experts
        now = self._now(state)
        total = self._total(state.alive)[:, None]
        relevant = np.maximum(state.relevant, 0)
        strength = np.where(state.alive, self.error.scored.strength, 0.0)
        less = np.maximum(total - strength, _TINIEST * total)
        fewer = np.take_along_axis(less, relevant, -1)
        change = self.error.evaluate(state.without, energy[:, None], fewer) - now[:, None]
        sums = self._sums(self._categories, now, self._count)[:, None].repeat(experts, 1)
        if self.routing.normalise == ALL:
            # Every token is rescaled when the sum over all survivors changes.
            column = Terms(*(part[:, None] for part in state.now))
            rescaled = self.error.evaluate(column, energy[:, None], less) - now[:, None]
            for category in range(self._count):
                mine = self._categories == category
                sums[category] += (rescaled[mine] * self._weights[mine, None]).sum(0)
            change -= np.take_along_axis(rescaled, relevant, -1)
        place = self._categories[:, None] * experts + relevant
        change = np.where(state.relevant >= 0, change, 0.0) * self._weights[:, None]
        changes = np.bincount(place.reshape(-1), change.reshape(-1), self._count * experts)
        return (sums + changes.reshape(self._count, experts)) / self._energy[:, None]

    def order_candidates(
        self, errors: NDArray[np.float64], alive: NDArray[np.bool_], objective: Objective
    ) -> NDArray[np.int64]:
        """Experts that may be removed next, the least missed first, from errors [C, E]."""
        pooled = self._share @ errors
        keys = (pooled, errors.max(0)) if objective == "worst" else (pooled,)
        candidates = np.flatnonzero(self._candidates(alive))
        return candidates[np.lexsort(tuple(key[candidates] for key in keys))]

    def state(self, alive: NDArray[np.bool_], known: _State | None = None) -> _State:
        """Evaluate a set of survivors; tokens that get the same as in `known` keep their values."""
        near = self._near(alive)
        relevant = self._relevant(alive, near[:, : self.routing.top_k])
        if known is not None and self.routing.groups == 1:
            token = np.flatnonzero((known.near != near).any(-1))
        else:
            token, known = np.arange(len(near)), None
        now = self.error.terms(token, near[token, : self.routing.top_k])
        row, slot = np.nonzero(relevant[token] >= 0)
        pair = token[row]
        evaluated = self.error.terms(pair, self._without(alive, near, relevant, (pair, slot)))
        without = Terms(*(np.ones(relevant.shape) for _ in evaluated))
        if known is not None:
            now = Terms(*(_put(old, token, new) for old, new in zip(known.now, now, strict=True)))
            without = Terms(*(part.copy() for part in known.without))
        for part, new in zip(without, evaluated, strict=True):
            part[pair, slot] = new
        return _State(alive, near, now, relevant, without)

    def _near(self, alive: NDArray[np.bool_]) -> NDArray[np.int64]:
        scores, ranks, top_k = self.error.scored, self._ranks, self.routing.top_k
        if self.routing.groups > 1:
            dead = np.int16(self.experts)
            return choose(self.routing, scores.choice, np.where(alive, scores.ranks, dead))
        place = np.arange(ranks + 1, dtype=np.int16)
        living = np.where(alive[scores.order[:, :ranks]], place[:-1], place[-1])
        # One more column of no expert, for when K + 1 are more than there are ranks.
        living = np.pad(living, ((0, 0), (0, 1)), constant_values=ranks)
        best = np.partition(living, top_k, axis=-1)[:, : top_k + 1]
        best.sort(axis=-1)
        return best.astype(np.int64)

    def _without(
        self,
        alive: NDArray[np.bool_],
        near: NDArray[np.int64],
        relevant: NDArray[np.int64],
        pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    ) -> NDArray[np.int64]:
        """int64 [P, K]: what tokens get once one of their relevant experts is gone."""
        token, slot = pairs
        top_k = self.routing.top_k
        if self.routing.groups == 1:
            column = np.arange(top_k)
            return near[token[:, None], column + (column >= slot[:, None])]
        scores = self.error.scored
        fewer = np.where(alive, scores.ranks, np.int16(self.experts))[token]
        fewer[np.arange(len(token)), relevant[token, slot]] = self.experts
        return choose(self.routing, scores.choice[token], fewer)

    def _relevant(self, alive: NDArray[np.bool_], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """[S, W]: the chosen; with groups also the experts that make their group what it is."""
        scores, ranks = self.error.scored, self._ranks
        experts = np.take_along_axis(scores.order, np.minimum(chosen, ranks - 1), -1)
        relevant = np.where(chosen < ranks, experts, -1).astype(np.int64)
        if self.routing.groups > 1:
            groups, best = self.routing.groups, self.routing.group_best
            size = self.experts // groups
            grouped = np.where(alive, scores.ranks, self.experts).reshape(-1, groups, size)
            inside = np.argsort(grouped, -1, kind="stable")[..., :best]
            tops = (inside + np.arange(groups)[:, None] * size).reshape(len(chosen), -1)
            taken = (tops[:, :, None] == relevant[:, None, :]).any(-1)
            relevant = np.concatenate([relevant, np.where(taken, -1, tops)], -1)
        # Index -1 reads the last expert, but stays -1 itself.
        return np.where(self._candidates(alive)[relevant], relevant, -1)

    def _candidates(self, alive: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """bool [E]: survivors that may be removed next: groups stay of equal size."""
        size = alive.reshape(self.routing.groups, -1).sum(-1)
        return np.repeat(size == size.max(), self.experts // self.routing.groups) & alive

    def _total(self, alive: NDArray[np.bool_]) -> NDArray[np.float64]:
        """[S]: sum of a_j over the survivors."""
        return np.asarray(np.where(alive, self.error.scored.strength, 0.0).sum(-1))

    def _now(self, state: _State) -> NDArray[np.float64]:
        return self.error.evaluate(state.now, self.error.energy, self._total(state.alive))

    def _sums(
        self, places: NDArray[np.int64], values: NDArray[np.float64], count: int
    ) -> NDArray[np.float64]:
        return np.bincount(places, self._weights * values, count).astype(np.float64)


def _put(
    old: NDArray[np.float64], token: NDArray[np.int64], new: NDArray[np.float64]
) -> NDArray[np.float64]:
    result = old.copy()
    result[token] = new
    return result
