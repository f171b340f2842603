"""The inner loops of the greedy removal, token by token: who gets what, and at what error.

When an expert leaves, only the tokens that it was among the first choices of are evaluated again,
and their errors exchanged in the sums over all tokens. Every sum has one order, whatever threads
there are. Shapes as in removal_search; W = K experts that a token may lose, and with groups those
that make its groups what they are.
"""

from __future__ import annotations

import numpy as np

from secateur.calibration.removal_state import Flags, Numbers, Places, Room, Rule, State, Tokens
from secateur.system.jit import compiled, compiled_apart, inlined, inner

BY_SELECTED, BY_ALL, BY_NONE = 0, 1, 2
BY_POOLED, BY_WORST, TOGETHER = 0, 1, 2
_NOW = np.int64(0)
_NOBODY = np.int64(-1)
_LEAST = 1e-15
"""Share of a sum that is left at least when its largest part is taken away."""


@inner
def _mark_groups(
    tokens: Tokens, rule: Rule, alive: Flags, token: int, without: np.int64, used: Flags
) -> None:
    """Set `used`, bool [G]: the groups that a token may choose from."""
    size = len(alive) // rule.groups
    best = np.empty(rule.group_best)
    sums = np.empty(rule.groups)
    for group in range(rule.groups):
        best[:] = -np.inf
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


@inlined
def _choose(
    tokens: Tokens, rule: Rule, alive: Flags, token: int, without: np.int64, room: Room
) -> None:
    """Ranks of the best survivors into `room.near`, ascending; R, which is nothing, fills up."""
    found, used, ranks = room.near, room.used, tokens.plain.shape[-1] - 1
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
                break
    for rest in range(place, len(found)):
        found[rest] = ranks


@inner
def _note(tokens: Tokens, terms: Numbers, token: int, slot: np.int64, chosen: Places) -> None:
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
    terms[0, slot], terms[1, slot], terms[2, slot], terms[3, slot] = size, measured, along, strength


@inlined
def _exchange(tokens: Tokens, token: int, room: Room) -> None:
    """The terms of `room.near`'s first K, and with each of them exchanged for the last, the next in
    line, into `room.terms`: what _note gives, from sums over rows of the matrices, which are
    symmetric.
    """
    near, p, m, terms = room.near, room.plain, room.weighted, room.terms
    plain, weighted, raw = tokens.plain, tokens.weighted, tokens.raw
    top_k, ranks = len(near) - 1, len(p) - 1
    p[:] = 0.0
    m[:] = 0.0
    size = measured = along = strength = 0.0
    for i in range(top_k):
        one = near[i]
        if one == ranks:
            break
        factor = raw[token, one]
        for rank in range(ranks):
            p[rank] += factor * plain[token, one, rank]
        for rank in range(ranks):
            m[rank] += factor * weighted[token, one, rank]
    for i in range(top_k):
        one = near[i]
        factor = raw[token, one]
        size += factor * p[one]
        measured += factor * m[one]
        along += factor * tokens.along[token, one]
        strength += tokens.strength[token, one]
    terms[0, 0], terms[1, 0], terms[2, 0], terms[3, 0] = size, measured, along, strength
    last = near[top_k]
    more = raw[token, last]
    for i in range(top_k):
        one = near[i]
        if one == ranks:
            break
        less, slot = raw[token, one], 1 + i
        a = 2.0 * (p[last] - less * plain[token, one, last]) + more * plain[token, last, last]
        b = 2.0 * (m[last] - less * weighted[token, one, last]) + more * weighted[token, last, last]
        c = 2.0 * p[one] - less * plain[token, one, one]
        d = 2.0 * m[one] - less * weighted[token, one, one]
        terms[0, slot] = size - less * c + more * a
        terms[1, slot] = measured - less * d + more * b
        terms[2, slot] = along - less * tokens.along[token, one] + more * tokens.along[token, last]
        terms[3, slot] = strength - tokens.strength[token, one] + tokens.strength[token, last]


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


@inlined
def _evaluate(rule: Rule, terms: Numbers, slot: int, energy: float, total: float) -> float:
    """Squared error of a set from its terms; `total` is the strength of all survivors."""
    over = 1.0
    if rule.normalise == BY_SELECTED:
        over = terms[3, slot]
    elif rule.normalise == BY_ALL:
        over = total
    scale = 1.0 / over if over > 0 else 0.0
    if rule.eps >= 0:
        scale = scale / np.sqrt(scale * scale * terms[0, slot] / rule.hidden + rule.eps)
    return float(max(scale * scale * terms[1, slot] - 2.0 * scale * terms[2, slot] + energy, 0.0))


@inlined
def _evaluate_sets(tokens: Tokens, rule: Rule, state: State, token: int, terms: Numbers) -> None:
    """A token's errors from its terms."""
    energy, total = tokens.energy[token], state.total[token]
    state.errors[token, 0] = _evaluate(rule, terms, 0, energy, total)
    for slot in range(state.relevant.shape[1]):
        expert = state.relevant[token, slot]
        if expert >= 0:
            fewer = total
            if rule.normalise == BY_ALL:
                fewer = _take_away(total, tokens.every_strength[token, expert])
            state.errors[token, 1 + slot] = _evaluate(rule, terms, 1 + slot, energy, fewer)


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
        if state.alive[expert]:
            seen[expert // size] += 1
            taken |= seen[expert // size] <= rule.group_best
        if taken and candidates[expert]:
            state.relevant[token, place] = expert
            place += 1
    for slot in range(place, state.relevant.shape[1]):
        state.relevant[token, slot] = -1


@inlined
def _see(
    tokens: Tokens, rule: Rule, state: State, candidates: Flags, token: int, room: Room
) -> None:
    """What a token gets and may lose, and the terms of that, into `room`."""
    near, ranks = room.near, tokens.plain.shape[-1] - 1
    _choose(tokens, rule, state.alive, token, _NOBODY, room)
    state.last[token] = near[-1]
    if rule.groups == 1:
        for slot in range(rule.top_k):
            one = near[slot]
            state.relevant[token, slot] = tokens.order[token, one] if one < ranks else -1
        _exchange(tokens, token, room)
    else:
        _list_relevant(tokens, rule, state, candidates, token, near)
        _note(tokens, room.terms, token, _NOW, near)
        for slot in range(state.relevant.shape[1]):
            expert = np.int64(state.relevant[token, slot])
            if expert >= 0:
                _choose(tokens, rule, state.alive, token, expert, room)
                _note(tokens, room.terms, token, np.int64(1 + slot), near)
    for term in range(4):
        for slot in range(state.terms.shape[2]):
            state.terms[token, term, slot] = room.terms[term, slot]


@inlined
def _add(tokens: Tokens, state: State, token: int, times: float) -> None:
    """Add a token's errors, `times` 1 or -1, to the sums."""
    category, weight = tokens.category[token], times * tokens.weight[token]
    before = state.errors[token, 0]
    state.now[category] += weight * before
    for slot in range(state.relevant.shape[1]):
        expert = state.relevant[token, slot]
        if expert >= 0:
            state.less[category, expert] += weight * (state.errors[token, 1 + slot] - before)


@inner
def _add_rescaled(tokens: Tokens, rule: Rule, state: State, token: int, mine: Flags) -> None:
    """Add what a token's error grows by without the experts that it does not use: it is rescaled
    when the sum over all survivors changes. `mine` is False everywhere."""
    category, weight = tokens.category[token], tokens.weight[token]
    before, terms = state.errors[token, 0], state.terms[token]
    for expert in state.relevant[token]:
        if expert >= 0:
            mine[expert] = True
    for other in range(len(mine)):
        if state.alive[other] and not mine[other]:
            fewer = _take_away(state.total[token], tokens.every_strength[token, other])
            after = _evaluate(rule, terms, 0, tokens.energy[token], fewer)
            state.less[category, other] += weight * (after - before)
    for expert in state.relevant[token]:
        if expert >= 0:
            mine[expert] = False


@compiled_apart
def update(tokens: Tokens, rule: Rule, state: State, candidates: Flags, gone: int) -> None:
    """Evaluate the survivors `state.alive` on all tokens, or on those that get something else now
    that the expert `gone` (-1: none) has left. `candidates`, bool [E], may go next.

    Where a router has groups, or divides by the sum of all, the sums are made anew; else they
    change by what those tokens' errors do.
    """
    places, terms = tokens.plain.shape[-1], 1 + state.relevant.shape[1]
    room = Room(
        np.empty(rule.top_k + 1, np.int64),
        np.ones(rule.groups, np.bool_),
        np.zeros(places),
        np.zeros(places),
        np.zeros((4, terms)),
        np.zeros(len(state.alive), np.bool_),
    )
    listed = gone >= 0 and rule.groups == 1
    anew = not listed or rule.normalise == BY_ALL
    if anew:
        state.now[:] = 0.0
        state.less[:] = 0.0
    first, end = 0, len(tokens.energy)
    if listed:
        first, end = int(tokens.starts[gone]), int(tokens.starts[gone + 1])
    for place in range(first, end):
        token = place
        if listed:
            token = int(tokens.holders[place])
            if tokens.held[place] > state.last[token]:
                continue
        if not anew:
            _add(tokens, state, token, -1.0)
        _see(tokens, rule, state, candidates, token, room)
        if rule.normalise != BY_ALL:
            _evaluate_sets(tokens, rule, state, token, room.terms)
            _add(tokens, state, token, 1.0)
    if rule.normalise == BY_ALL:
        for token in range(len(tokens.energy)):
            state.total[token] = _add_alive(tokens.every_strength[token], state.alive)
            _evaluate_sets(tokens, rule, state, token, state.terms[token])
            _add(tokens, state, token, 1.0)
            _add_rescaled(tokens, rule, state, token, room.mine)


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
def errors_of(state: State, energy: Numbers) -> tuple[Numbers, Numbers]:
    """Relative error per category, [C], and after removing each expert as well, [C, E]; `energy`
    [C] is that of the original's outputs."""
    # Where nothing is lost, taking away what was added may leave less than nothing.
    now = np.maximum(state.now, 0.0)
    less = np.empty(state.less.shape)
    for category in range(len(energy)):
        less[category] = (now[category] + state.less[category]) / energy[category]
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
    sizes: tuple[Numbers, Numbers],
    objective: int,
    fewest: int,
    found: tuple[Flags, Numbers, Numbers],
) -> None:
    """Remove survivors one by one down to `fewest`, and put into `found` who is kept [E + 1, E],
    the errors [E + 1, C] and the scores [E] of removal_search.Removal.

    `sizes` are the categories' energies and their shares, [C]. TOGETHER stops where the two
    objectives part, or `fewest` are left.
    """
    keep, by_category, scores = found
    energy, share = sizes
    experts, kept = len(state.alive), int(state.alive.sum())
    while True:
        now, errors = errors_of(state, energy)
        keep[kept], by_category[kept] = state.alive, now
        candidates = list_candidates(state.alive, rule.groups)
        if kept == fewest:
            break
        gone = least_missed(errors, share, candidates, objective == BY_WORST)
        if objective == TOGETHER and gone != least_missed(errors, share, candidates, True):
            return
        scores[gone] = experts - kept
        state.alive[gone] = False
        update(tokens, rule, state, list_candidates(state.alive, rule.groups), gone)
        kept -= 1
    for place in range(experts - kept, experts):
        gone = least_missed(errors, share, candidates, objective == BY_WORST)
        scores[gone] = place
        candidates[gone] = False
