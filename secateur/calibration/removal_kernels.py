"""The inner loops of the greedy removal, token by token: who gets what, and at what error.

Every sum has one order, whatever threads there are. Shapes as in removal_search; W = K experts
that a token may lose, and with groups those that make its groups what they are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.system.jit import compiled, inner

Flags = NDArray[np.bool_]
Numbers = NDArray[np.float64]
Places = NDArray[np.int64]
BY_SELECTED, BY_ALL, BY_NONE = 0, 1, 2
_NOW = np.int64(0)
_NOBODY = np.int64(-1)
_LEAST = 1e-15
"""Share of a sum that is left at least when its largest part is taken away."""


class Rule(NamedTuple):
    """The router's rule and the norm behind the block, as numbers."""

    top_k: int
    groups: int
    used_groups: int
    group_best: int
    normalise: int
    hidden: int
    eps: float
    """of the norm; negative without one"""


class Tokens(NamedTuple):
    """What a layer's sample says; see BlockError and Scored."""

    plain: NDArray[np.float32]
    weighted: NDArray[np.float32]
    along: Numbers
    raw: Numbers
    strength: Numbers
    """[S, R + 1]: by rank"""
    energy: Numbers
    order: NDArray[np.int16]
    ranks: NDArray[np.int16]
    choice: Numbers
    every_strength: Numbers
    """[S, E]: by expert"""
    category: NDArray[np.int64]
    weight: Numbers


class State(NamedTuple):
    """A set of survivors, and what each token gets: now, and with one expert less."""

    alive: Flags
    """[E]"""
    last: NDArray[np.int16]
    """[S]: rank of the next in line, whose removal is the last one that changes anything"""
    relevant: NDArray[np.int16]
    """[S, W]: experts whose removal changes what the token gets; -1 fills up"""
    terms: Numbers
    """[S, 1 + W, 4]: w'^T P w', w'^T M w', w'^T M u and the sum of strengths; now, then without
    each of `relevant`"""
    errors: Numbers
    """[S, 1 + W]: squared errors, likewise"""
    total: Numbers
    """[S]: sum of the strengths of all survivors; only kept where the rule divides by it"""


@inner
def _mark_groups(
    tokens: Tokens, rule: Rule, alive: Flags, token: int, without: np.int64, used: Flags
) -> None:
    """Set `used`, bool [G]: the groups that a token may choose from."""
    size = len(alive) // rule.groups
    best = np.empty(rule.group_best)
    sums = np.empty(rule.groups)
    for group in range(rule.groups):
        for place in range(rule.group_best):
            best[place] = -np.inf
        for expert in range(group * size, (group + 1) * size):
            value = tokens.choice[token, expert]
            if alive[expert] and expert != without and value > best[-1]:
                place = rule.group_best - 1
                while place > 0 and value > best[place - 1]:
                    best[place] = best[place - 1]
                    place -= 1
                best[place] = value
        sums[group] = 0.0
        used[group] = False
        for place in range(rule.group_best):
            sums[group] += best[place]
    for _ in range(rule.used_groups):
        first = -1
        for group in range(rule.groups):
            if not used[group] and (first < 0 or sums[group] > sums[first]):
                first = group
        used[first] = True


@inner
def _choose(
    tokens: Tokens,
    rule: Rule,
    alive: Flags,
    token: int,
    without: np.int64,
    found: Places,
    used: Flags,
) -> None:
    """Ranks of the best survivors into `found`, ascending; R, which is nothing, fills up.

    `used` is room for a bool per group, true where there is but one.
    """
    ranks = tokens.plain.shape[-1] - 1
    if rule.groups > 1:
        _mark_groups(tokens, rule, alive, token, without, used)
    size = len(alive) // rule.groups
    place = 0
    for rank in range(ranks):
        expert = tokens.order[token, rank]
        if alive[expert] and expert != without and (rule.groups == 1 or used[expert // size]):
            found[place] = rank
            place += 1
            if place == len(found):
                return
    for rest in range(place, len(found)):
        found[rest] = ranks


@inner
def _note(tokens: Tokens, state: State, token: int, slot: np.int64, chosen: Places) -> None:
    """The terms of all but the last of some of a token's ranks, into a slot."""
    plain, weighted = tokens.plain[token], tokens.weighted[token]
    raw, ranks = tokens.raw[token], len(tokens.raw[token]) - 1
    size = measured = along = strength = 0.0
    for i in range(len(chosen) - 1):
        one = chosen[i]
        if one == ranks:
            break
        size += raw[one] * raw[one] * plain[one, one]
        measured += raw[one] * raw[one] * weighted[one, one]
        along += raw[one] * tokens.along[token, one]
        strength += tokens.strength[token, one]
        for j in range(i):
            other = chosen[j]
            pair = 2.0 * raw[one] * raw[other]
            size += pair * plain[one, other]
            measured += pair * weighted[one, other]
    state.terms[token, slot, 0] = size
    state.terms[token, slot, 1] = measured
    state.terms[token, slot, 2] = along
    state.terms[token, slot, 3] = strength


@inner
def _exchange(tokens: Tokens, state: State, token: int, near: Places, rows: Numbers) -> None:
    """The terms of `near`'s first K, and with each of them exchanged for the last, the next in
    line: what _note gives, from sums over rows of the matrices. `rows` is room for [K + 1, 2].
    """
    plain, weighted = tokens.plain[token], tokens.weighted[token]
    raw, ranks = tokens.raw[token], len(tokens.raw[token]) - 1
    top_k = len(near) - 1
    size = measured = along = strength = 0.0
    for i in range(top_k + 1):
        one, p, m = near[i], 0.0, 0.0
        for j in range(top_k):
            p += raw[near[j]] * plain[one, near[j]]
            m += raw[near[j]] * weighted[one, near[j]]
        rows[i, 0], rows[i, 1] = p, m
        if i < top_k:
            size += raw[one] * p
            measured += raw[one] * m
            along += raw[one] * tokens.along[token, one]
            strength += tokens.strength[token, one]
    terms, last = state.terms[token], near[top_k]
    terms[0, 0], terms[0, 1], terms[0, 2], terms[0, 3] = size, measured, along, strength
    for i in range(top_k):
        one = near[i]
        if one == ranks:
            return
        less, more = raw[one], raw[last]
        p = 2.0 * (rows[top_k, 0] - less * plain[one, last]) + more * plain[last, last]
        m = 2.0 * (rows[top_k, 1] - less * weighted[one, last]) + more * weighted[last, last]
        slot = terms[1 + i]
        slot[0] = size - less * (2.0 * rows[i, 0] - less * plain[one, one]) + more * p
        slot[1] = measured - less * (2.0 * rows[i, 1] - less * weighted[one, one]) + more * m
        slot[2] = along - less * tokens.along[token, one] + more * tokens.along[token, last]
        slot[3] = strength - tokens.strength[token, one] + tokens.strength[token, last]


@inner
def _add_alive(strength: Numbers, alive: Flags) -> float:
    total = 0.0
    for expert in range(len(alive)):
        if alive[expert]:
            total += strength[expert]
    return total


@inner
def _take_away(total: float, part: float) -> float:
    return max(total - part, _LEAST * total)


@inner
def _evaluate(rule: Rule, terms: Numbers, energy: float, total: float) -> float:
    """Squared error of a set from its terms; `total` is the strength of all survivors."""
    over = 1.0
    if rule.normalise == BY_SELECTED:
        over = terms[3]
    elif rule.normalise == BY_ALL:
        over = total
    scale = 1.0 / over if over > 0 else 0.0
    if rule.eps >= 0:
        scale = scale / np.sqrt(scale * scale * terms[0] / rule.hidden + rule.eps)
    return float(max(scale * scale * terms[1] - 2.0 * scale * terms[2] + energy, 0.0))


@inner
def _evaluate_sets(tokens: Tokens, rule: Rule, state: State, token: int) -> None:
    """A token's errors from its terms."""
    energy, total = tokens.energy[token], state.total[token]
    state.errors[token, 0] = _evaluate(rule, state.terms[token, 0], energy, total)
    for slot in range(state.relevant.shape[1]):
        expert = state.relevant[token, slot]
        if expert >= 0:
            fewer = _take_away(total, tokens.every_strength[token, expert])
            terms = state.terms[token, 1 + slot]
            state.errors[token, 1 + slot] = _evaluate(rule, terms, energy, fewer)


@inner
def _list_relevant(
    tokens: Tokens, rule: Rule, state: State, candidates: Flags, token: int, chosen: Places
) -> None:
    """The experts that a token may lose; with groups also the best of every group."""
    place, size = 0, len(candidates) // rule.groups
    seen = np.zeros(rule.groups, np.int64)
    for rank in range(tokens.plain.shape[-1] - 1):
        expert = tokens.order[token, rank]
        taken = False
        for slot in range(rule.top_k):
            taken |= chosen[slot] == rank
        if rule.groups > 1 and state.alive[expert]:
            seen[expert // size] += 1
            taken |= seen[expert // size] <= rule.group_best
        if taken and candidates[expert]:
            state.relevant[token, place] = expert
            place += 1
    for slot in range(place, state.relevant.shape[1]):
        state.relevant[token, slot] = -1


@compiled
def update(tokens: Tokens, rule: Rule, state: State, candidates: Flags, gone: int) -> None:
    """Evaluate the survivors `state.alive` on all tokens, or on those that get something else now
    that the expert `gone` (-1: none) has left. `candidates`, bool [E], may go next.
    """
    ranks = tokens.plain.shape[-1] - 1
    near = np.empty(rule.top_k + 1, np.int64)
    rows = np.empty((rule.top_k + 1, 2))
    used = np.ones(rule.groups, np.bool_)
    for token in range(len(tokens.energy)):
        if gone >= 0 and rule.groups == 1:
            rank = tokens.ranks[token, gone]
            if rank > state.last[token] or rank >= ranks:
                continue
        _choose(tokens, rule, state.alive, token, _NOBODY, near, used)
        state.last[token] = near[-1]
        _list_relevant(tokens, rule, state, candidates, token, near)
        if rule.groups == 1:
            _exchange(tokens, state, token, near, rows)
        else:
            _note(tokens, state, token, _NOW, near)
            for slot in range(state.relevant.shape[1]):
                expert = np.int64(state.relevant[token, slot])
                if expert >= 0:
                    _choose(tokens, rule, state.alive, token, expert, near, used)
                    _note(tokens, state, token, np.int64(1 + slot), near)
        if rule.normalise != BY_ALL:
            _evaluate_sets(tokens, rule, state, token)
    if rule.normalise == BY_ALL:
        for token in range(len(tokens.energy)):
            state.total[token] = _add_alive(tokens.every_strength[token], state.alive)
            _evaluate_sets(tokens, rule, state, token)


@compiled
def add_errors(tokens: Tokens, rule: Rule, state: State, now: Numbers, less: Numbers) -> None:
    """Add the weighted errors per category to `now` [C], and what they grow by without each
    survivor to `less` [C, E].
    """
    mine = np.zeros(len(state.alive), np.bool_)
    for token in range(len(tokens.energy)):
        category, weight = tokens.category[token], tokens.weight[token]
        before = state.errors[token, 0]
        now[category] += weight * before
        for slot in range(state.relevant.shape[1]):
            expert = state.relevant[token, slot]
            if expert >= 0:
                mine[expert] = True
                less[category, expert] += weight * (state.errors[token, 1 + slot] - before)
        if rule.normalise == BY_ALL:
            # Every token is rescaled when the sum over all survivors changes.
            for expert in range(len(mine)):
                if state.alive[expert] and not mine[expert]:
                    fewer = _take_away(state.total[token], tokens.every_strength[token, expert])
                    after = _evaluate(rule, state.terms[token, 0], tokens.energy[token], fewer)
                    less[category, expert] += weight * (after - before)
        for expert in state.relevant[token]:
            if expert >= 0:
                mine[expert] = False


@compiled
def list_candidates(alive: Flags, groups: int) -> Flags:
    """bool [E]: survivors that may be removed next: groups stay of equal size."""
    size = len(alive) // groups
    left = np.zeros(groups, np.int64)
    for expert in range(len(alive)):
        left[expert // size] += alive[expert]
    most = left.max()
    candidates = alive.copy()
    for expert in range(len(alive)):
        candidates[expert] &= left[expert // size] == most
    return candidates


@compiled
def errors_of(tokens: Tokens, rule: Rule, state: State, energy: Numbers) -> tuple[Numbers, Numbers]:
    """Relative error per category, [C], and after removing each expert as well, [C, E]; `energy`
    [C] is that of the original's outputs."""
    now = np.zeros(len(energy))
    less = np.zeros((len(energy), len(state.alive)))
    add_errors(tokens, rule, state, now, less)
    for category in range(len(energy)):
        for expert in range(len(state.alive)):
            less[category, expert] = (now[category] + less[category, expert]) / energy[category]
    return now / energy, less


@compiled
def least_missed(errors: Numbers, share: Numbers, candidates: Flags, worst: bool) -> int:
    """The candidate whose removal leaves the smallest error of all that `errors` [C, E] tells:
    over all tokens, or in the worst category and then over all. The lower number among equals.
    """
    best, least, least_pooled = -1, np.inf, np.inf
    for expert in range(len(candidates)):
        if candidates[expert]:
            pooled = highest = 0.0
            for category in range(len(share)):
                pooled += share[category] * errors[category, expert]
                highest = max(highest, errors[category, expert])
            key = highest if worst else pooled
            if best < 0 or key < least or (key == least and pooled < least_pooled):
                best, least, least_pooled = expert, key, pooled
    return best


@compiled
def remove_all(
    tokens: Tokens,
    rule: Rule,
    state: State,
    energy: Numbers,
    share: Numbers,
    worst: bool,
    fewest: int,
    found: tuple[Flags, Numbers, Numbers],
) -> None:
    """Remove survivors one by one down to `fewest`, and put into `found` who is kept [E + 1, E],
    the errors [E + 1, C] and the scores [E] of removal_search.Removal."""
    keep, by_category, scores = found
    experts = len(state.alive)
    for kept in range(experts, fewest - 1, -1):
        now, errors = errors_of(tokens, rule, state, energy)
        keep[kept], by_category[kept] = state.alive, now
        candidates = list_candidates(state.alive, rule.groups)
        if kept > fewest:
            gone = least_missed(errors, share, candidates, worst)
            scores[gone] = experts - kept
            state.alive[gone] = False
            update(tokens, rule, state, list_candidates(state.alive, rule.groups), gone)
        else:
            for place in range(experts - kept, experts):
                gone = least_missed(errors, share, candidates, worst)
                scores[gone] = place
                candidates[gone] = False
