"""The loops that choose points of a codebook, signs and scales (codebook_feedback.py).

A SIMD lane is a point that is tried. For a group of columns the targets are those that later
columns could make up for at no cost; what a point costs is exact: the sum over the group's columns,
with the feedback between them. Where eight signs are seven bits, of two groups of four the best
with an even and with an odd number of signs below 0 go on. numba compiles anew when this file
changes, but not when another does: so all that call each other are here.

Shapes: R rows, C columns, blocks of n that share a scale; P points of the lattice, K = NEAR tried
for each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.rounding.grid import Codes, Floats
from secateur.system.jit import apart, compiled, inlined, inner

ANY = -1
"""Parity of signs that may be even or odd."""


NEAR = 16
"""Points that are tried for a group."""


class Codebook(NamedTuple):
    """The points that a group may become. A lattice point's number is the sum of its coordinates'
    levels times powers of their count, the first coordinate's least."""

    dims: int
    values: Floats
    """[P, dims * K]: magnitudes of the points tried, at the scale 1"""
    numbers: NDArray[np.uint16]
    """[P, K]: the same points by number"""
    middles: Floats
    """[L - 1]: between the levels of a coordinate"""
    levels: Floats
    """[L]"""
    signed: bool
    """whether numbers have signs of their own; else points may be shifted"""
    even: bool
    """whether of eight numbers an even number is below 0"""


class Chosen(NamedTuple):
    """What rows become."""

    points: NDArray[np.uint16]
    """[R, C / dims]: by number"""
    signs: Codes
    """[R, C / 8]: 1 below 0"""
    trials: NDArray[np.int64]
    """[R, G]"""


class ColumnCosts(NamedTuple):
    """What columns cost each other, in the order of the factor."""

    feedback: Floats
    """[C, C]"""
    weight: Floats
    """[C]: of a column's own error"""
    alone: Floats
    """[C]: of its error, and of that which it brings to the columns of its eight"""
    groups: NDArray[np.int64]
    """[G]: the blocks, as they lie in the file"""


WEIGHT, ALONE = 8, 9
"""Rows of what eight columns cost each other, float32 [10, 8], after those of the feedback."""

WANTED, OWN, TARGET, SIZE, LEVEL, SCALE, ERROR, COST = range(8)
"""Rows of the room to work in, float32 [8, NEAR], for eight columns of one row: what they should
become, for the feedback of those before them; the row's numbers; what they should become for later
columns of their group as well; of that the size in units of the scale, and its level; the scale,
below 0 where the sign is; errors. Of the points tried what they cost."""


class _Kept(NamedTuple):
    """The best of a block so far."""

    errors: Floats
    """[n]"""
    points: NDArray[np.uint16]
    """[n / dims]"""
    signs: Codes
    """[n / 8]"""


class Trials(NamedTuple):
    """What is tried for every block."""

    scales: Floats
    """[T, R, G]"""
    shifts: Floats
    """[T]: what is added to all numbers of the block, in units of the scale"""


@inlined
def _aim(eight: Floats, at: int, dims: int, scale: np.float32, book: Codebook, room: Floats) -> int:
    """The targets of a group that begins at column `at` of eight, their signs, and the nearest
    point of the lattice by number."""
    one, zero = np.float32(1), np.float32(0)
    inverse = one / scale if scale != zero else zero
    for j in range(at, at + dims):
        target = room[WANTED, j]
        for i in range(at, j):
            target += eight[i, j] * (room[OWN, i] - room[TARGET, i])
        room[TARGET, j] = target
    for j in range(at, at + dims):
        turned = book.signed and room[TARGET, j] < zero
        room[SCALE, j] = -scale if turned else scale
        room[SIZE, j] = (-room[TARGET, j] if turned else room[TARGET, j]) * inverse
        room[LEVEL, j] = zero
    for m in range(book.middles.size):
        middle = book.middles[m]
        for j in range(at, at + dims):
            room[LEVEL, j] += one if room[SIZE, j] > middle else zero
    point = 0
    for j in range(at + dims - 1, at - 1, -1):
        point = point * book.levels.size + int(room[LEVEL, j])
    return point


@inlined
def _turn(eight: Floats, at: int, dims: int, levels: Floats, room: Floats) -> int:
    """Change the sign that costs least; by how much the number of the nearest point of the lattice
    falls."""
    least, place, lower, power = np.float32(np.inf), at, 0, 1
    for j in range(at, at + dims):
        level = int(room[LEVEL, j])
        off = room[SIZE, j] - levels[level]
        turned = room[SIZE, j] + levels[0]
        cost = eight[ALONE, j] * (turned * turned - off * off)
        if cost < least:
            least, place, lower = cost, j, level * power
        power *= levels.size
    room[SCALE, place] = -room[SCALE, place]
    return lower


@apart
def _cost_fours(
    values: Floats,
    target: Floats,
    scale: Floats,
    feedback: Floats,
    weight: Floats,
    cost: Floats,
) -> None:
    """What points [4 * NEAR] cost, with the feedback [4, 4] between their columns."""
    ta, tb, tc, td = target[0], target[1], target[2], target[3]
    sa, sb, sc, sd = scale[0], scale[1], scale[2], scale[3]
    wa, wb, wc, wd = weight[0], weight[1], weight[2], weight[3]
    ab, ac, ad = feedback[0, 1], feedback[0, 2], feedback[0, 3]
    bc, bd, cd = feedback[1, 2], feedback[1, 3], feedback[2, 3]
    for k in range(NEAR):
        a = ta - sa * values[k]
        b = tb - sb * values[NEAR + k]
        c = tc - sc * values[2 * NEAR + k]
        d = td - sd * values[3 * NEAR + k]
        y = b + ab * a
        z = c + ac * a + bc * b
        v = d + ad * a + bd * b + cd * c
        cost[k] = wa * a * a + wb * y * y + wc * z * z + wd * v * v


@apart
def _cost_eights(
    values: Floats,
    target: Floats,
    scale: Floats,
    feedback: Floats,
    weight: Floats,
    cost: Floats,
) -> None:
    """The same of points [8 * NEAR]."""
    ta, tb, tc, td = target[0], target[1], target[2], target[3]
    te, tf, tg, th = target[4], target[5], target[6], target[7]
    sa, sb, sc, sd = scale[0], scale[1], scale[2], scale[3]
    se, sf, sg, sh = scale[4], scale[5], scale[6], scale[7]
    f = feedback
    for k in range(NEAR):
        a = ta - sa * values[k]
        b = tb - sb * values[NEAR + k]
        c = tc - sc * values[2 * NEAR + k]
        d = td - sd * values[3 * NEAR + k]
        e = te - se * values[4 * NEAR + k]
        g = tf - sf * values[5 * NEAR + k]
        h = tg - sg * values[6 * NEAR + k]
        i = th - sh * values[7 * NEAR + k]
        total = weight[0] * a * a
        y = b + f[0, 1] * a
        total += weight[1] * y * y
        y = c + f[0, 2] * a + f[1, 2] * b
        total += weight[2] * y * y
        y = d + f[0, 3] * a + f[1, 3] * b + f[2, 3] * c
        total += weight[3] * y * y
        y = e + f[0, 4] * a + f[1, 4] * b + f[2, 4] * c + f[3, 4] * d
        total += weight[4] * y * y
        y = g + f[0, 5] * a + f[1, 5] * b + f[2, 5] * c + f[3, 5] * d + f[4, 5] * e
        total += weight[5] * y * y
        y = h + f[0, 6] * a + f[1, 6] * b + f[2, 6] * c + f[3, 6] * d + f[4, 6] * e + f[5, 6] * g
        total += weight[6] * y * y
        y = i + f[0, 7] * a + f[1, 7] * b + f[2, 7] * c + f[3, 7] * d + f[4, 7] * e + f[5, 7] * g
        y += f[6, 7] * h
        total += weight[7] * y * y
        cost[k] = total


@inner
def _choose_group(
    eight: Floats, at: int, scale: np.float32, parity: int, book: Codebook, room: Floats
) -> tuple[np.float32, int, int]:
    """(what it costs, point, signs) of the best point of the group that begins at column `at`;
    its errors are left in the room."""
    dims = book.dims
    point = _aim(eight, at, dims, scale, book, room)
    if parity != ANY:
        odd = parity
        for j in range(at, at + dims):
            odd ^= 1 if room[SCALE, j] < np.float32(0) else 0
        if odd:
            point -= _turn(eight, at, dims, book.levels, room)
    values, cost = book.values[point], room[COST]
    target, scales, weight = room[TARGET, at:], room[SCALE, at:], eight[WEIGHT, at:]
    if dims == 8:
        _cost_eights(values, target, scales, eight, weight, cost)
    else:
        _cost_fours(values, target, scales, eight[at:, at:], weight, cost)
    best, least = 0, cost[0]
    for k in range(1, NEAR):
        best = k if cost[k] < least else best
        least = cost[k] if cost[k] < least else least
    signs = 0
    for j in range(dims):
        room[ERROR, at + j] = room[OWN, at + j] - room[SCALE, at + j] * values[j * NEAR + best]
        signs |= 1 << j if room[SCALE, at + j] < np.float32(0) else 0
    return least, book.numbers[point, best], signs << at


@inner
def _choose_even_fours(
    eight: Floats, scale: np.float32, book: Codebook, room: Floats, kept: _Kept, e: int
) -> np.float32:
    """What the best two points of four numbers cost, an even number of signs below 0."""
    least = np.float32(np.inf)
    a, b, c, d = room[WANTED, 4], room[WANTED, 5], room[WANTED, 6], room[WANTED, 7]
    for parity in range(2):
        cost, point, signs = _choose_group(eight, 0, scale, parity, book, room)
        room[WANTED, 4], room[WANTED, 5], room[WANTED, 6], room[WANTED, 7] = a, b, c, d
        for i in range(4):
            for j in range(4, 8):
                room[WANTED, j] += room[ERROR, i] * eight[i, j]
        more, other, others = _choose_group(eight, 4, scale, parity, book, room)
        if parity == 0 or cost + more < least:
            least = cost + more
            for j in range(8):
                kept.errors[8 * e + j] = room[ERROR, j]
            kept.points[2 * e], kept.points[2 * e + 1] = point, other
            kept.signs[e] = signs | others
    return least


@inner
def _choose_eight(
    eight: Floats, scale: np.float32, book: Codebook, room: Floats, kept: _Kept, e: int
) -> np.float32:
    """What eight columns cost in points of which each is the best, one after the other."""
    total, signs = np.float32(0), 0
    for at in range(0, 8, book.dims):
        for i in range(at):
            for j in range(at, at + book.dims):
                room[WANTED, j] += room[ERROR, i] * eight[i, j]
        parity = 0 if book.even else ANY
        cost, point, below = _choose_group(eight, at, scale, parity, book, room)
        total += cost
        signs |= below
        kept.points[(8 * e + at) // book.dims] = point
    kept.signs[e] = signs
    for j in range(8):
        kept.errors[8 * e + j] = room[ERROR, j]
    return total


@inner
def _cut_eights(of: ColumnCosts, start: int, eights: Floats) -> None:
    """What the columns of a block cost each other, eight by eight, float32 [n / 8, 10, 8]."""
    for e in range(len(eights)):
        part = slice(start + 8 * e, start + 8 * e + 8)
        eights[e, :8] = of.feedback[part, part]
        eights[e, WEIGHT] = of.weight[part]
        eights[e, ALONE] = of.alone[part]


@inner
def _try(
    lines: Floats,
    block: tuple[Floats, Floats],
    scale: np.float32,
    shift: np.float32,
    book: Codebook,
    room: Floats,
    kept: _Kept,
) -> np.float32:
    """What a block costs with a scale and a shift, whose errors and codes are left in `kept`.
    `lines` [2, n] are what its columns should become, for the feedback of those before the block,
    and the row's numbers."""
    feedback, eights = block
    cost = np.float32(0)
    for e in range(len(eights)):
        at = 8 * e
        for j in range(8):
            room[WANTED, j], room[OWN, j] = lines[0, at + j] - shift, lines[1, at + j] - shift
        for i in range(at):
            for j in range(8):
                room[WANTED, j] += kept.errors[i] * feedback[i, at + j]
        if book.even and book.dims == 4:
            cost += _choose_even_fours(eights[e], scale, book, room, kept, e)
        else:
            cost += _choose_eight(eights[e], scale, book, room, kept, e)
    return cost


@compiled
def choose_columns(
    rows: Floats,
    errors: Floats,
    wanted: Floats,
    trials: Trials,
    of: ColumnCosts,
    first: int,
    book: Codebook,
    found: Chosen,
) -> None:
    """The columns from `first` on, whose numbers are `wanted` [R, columns] with the feedback of all
    before `first`."""
    n = rows.shape[1] // trials.scales.shape[2]
    points, bytes_of_signs = n // book.dims, n // 8
    room, eights = np.zeros((8, NEAR), np.float32), np.empty((n // 8, 10, 8), np.float32)
    lines = np.empty((2, n), np.float32)
    kept = _Kept(
        np.empty(n, np.float32), np.empty(points, np.uint16), np.empty(bytes_of_signs, np.uint8)
    )
    for start in range(first, first + wanted.shape[1], n):
        g = of.groups[start // n]
        feedback = of.feedback[start : start + n, start : start + n].copy()
        _cut_eights(of, start, eights)
        for r in range(len(rows)):
            lines[0] = wanted[r, start - first : start - first + n]
            lines[1] = rows[r, start : start + n]
            for i in range(first, start):
                _add(of.feedback[i, start : start + n], errors[r, i], lines[0])
            least = np.float32(np.inf)
            for t in range(len(trials.shifts)):
                scale = trials.scales[t, r, g]
                shift = scale * trials.shifts[t]
                cost = _try(lines, (feedback, eights), scale, shift, book, room, kept)
                if t == 0 or cost < least:
                    least = cost
                    errors[r, start : start + n] = kept.errors
                    found.points[r, g * points : (g + 1) * points] = kept.points
                    found.signs[r, g * bytes_of_signs : (g + 1) * bytes_of_signs] = kept.signs
                    found.trials[r, g] = t


@apart
def _add(shares: Floats, error: np.float32, aims: Floats) -> None:
    for j in range(aims.size):
        aims[j] += error * shares[j]
