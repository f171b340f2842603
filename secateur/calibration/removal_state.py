"""What the greedy removal knows: the router's rule, the sampled tokens, and a set of survivors.

Shapes as in removal_kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.system.jit import compiled

Flags = NDArray[np.bool_]
Numbers = NDArray[np.float64]
Places = NDArray[np.int64]


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
    """What a layer's sample says; see BlockError."""

    plain: NDArray[np.float32]
    weighted: NDArray[np.float32]
    along: Numbers
    raw: Numbers
    strength: Numbers
    """[S, R + 1]: by rank"""
    energy: Numbers
    order: NDArray[np.int16]
    choice: Numbers
    every_strength: Numbers
    """[S, E]: by expert"""
    category: NDArray[np.int64]
    weight: Numbers
    starts: Places
    """[E + 1]: where each expert's part of the next two begins"""
    holders: NDArray[np.int32]
    """[S R]: the tokens that have it among their first R, ascending"""
    held: NDArray[np.int16]
    """[S R]: its rank there"""


class State(NamedTuple):
    """A set of survivors, and what each token gets: now, and with one expert less."""

    alive: Flags
    """[E]"""
    last: NDArray[np.int16]
    """[S]: rank of the next in line, whose removal is the last one that changes anything"""
    relevant: NDArray[np.int16]
    """[S, W]: experts whose removal changes what the token gets; -1 fills up"""
    terms: Numbers
    """[S, 4, 1]: w'^T P w', w'^T M w', w'^T M u and the sum of strengths now; [S, 4, 1 + W] where
    the rule divides by the sum of all, the others without each of `relevant`"""
    errors: Numbers
    """[S, 1 + W]: squared errors, now, then without each of `relevant`"""
    total: Numbers
    """[S]: sum of the strengths of all survivors; only kept where the rule divides by it"""
    now: Numbers
    """[C]: weighted errors of all tokens"""
    less: Numbers
    """[C, E]: what they grow by without each survivor"""


class Room(NamedTuple):
    """Room for one token's numbers."""

    near: Places
    """[K + 1]"""
    used: Flags
    """[G]: the groups that the token may choose from; true where there is but one"""
    plain: Numbers
    """[R + 1]: P times the coefficients"""
    weighted: Numbers
    """[R + 1]: M times them"""
    terms: Numbers
    """[4, 1 + W]"""
    mine: Flags
    """[E]: all False"""


@compiled
def list_holders(
    order: NDArray[np.int16], experts: int
) -> tuple[Places, NDArray[np.int32], NDArray[np.int16]]:
    """`starts`, `holders` and `held` of Tokens, from its `order`."""
    tokens, ranks = order.shape
    starts = np.zeros(experts + 1, np.int64)
    for token in range(tokens):
        for rank in range(ranks):
            starts[order[token, rank] + 1] += 1
    for expert in range(experts):
        starts[expert + 1] += starts[expert]
    free = starts.copy()
    holders, held = np.empty(tokens * ranks, np.int32), np.empty(tokens * ranks, np.int16)
    for token in range(tokens):
        for rank in range(ranks):
            place = free[order[token, rank]]
            holders[place], held[place] = token, rank
            free[order[token, rank]] = place + 1
    return starts, holders, held
