"""Codes and scales of rows, chosen with error feedback (see factor.py for what is minimised).

Columns go in wide blocks, and these in narrow ones: what the blocks before one add to it is one
matrix product, and inside a narrow block a compiled loop takes group after group. What a group of
columns still costs, once later columns make up for it as well as they can, is a sum over its own
columns; so its scale, and then its offset, are those of a few near the encoder's for which that is
least, and its codes follow.

Rows do not depend on each other; a loop takes LANES of them at a time, in the processor's SIMD
units.

Shapes: R rows, C columns, G groups of columns that share a scale. All is [columns, rows] inside.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.rounding.blas import one_blas_thread
from secateur.rounding.factor import Factor
from secateur.rounding.grid import (
    LANES,
    Choices,
    Choose,
    Codes,
    E,
    Floats,
    Levels,
    ScalarGrid,
    Scales,
)
from secateur.system.jit import apart, compiled, inlined, inner

TO_INTEGER = np.float32(12582912)
"""Added to a small number and taken away again it leaves the nearest integer, or the even one."""

LEAST_SCALE = np.float32(2.0**-127)
"""Of a smaller one, MXFP4's for zeros, the inverse would be infinite."""

WIDE, COLUMNS = 256, 64
"""Columns of a wide block, whose product with all columns before is at BLAS's fastest, and of a
narrow one (or one group), whose loop is slower; more of them take Python's lock more often."""


def round_with_feedback(
    rows: Floats,
    encoded: E,
    grid: ScalarGrid[E],
    factor: Factor,
    chosen_by: Choose | None = None,
) -> E:
    """What `ScalarGrid.round` makes. Peak memory: six times the rows, in float32. The same
    rows give the same bytes.
    """
    choices = grid.choices(encoded, rows.shape[1])
    found = (chosen_by or choose)(rows, choices, grid.levels, factor)
    return grid.with_numbers(encoded, *found)


def choose(rows: Floats, choices: Choices, levels: Levels, factor: Factor) -> tuple[Codes, Scales]:
    """(uint8 [R, C]: places among the levels, scales and offsets), group by group in the order of
    the factor."""
    count, columns = rows.shape
    group = columns // choices.scale.shape[2]
    lanes = -(-count // LANES) * LANES
    work = _Work(
        _lay_across(rows, lanes)[factor.order],
        np.zeros((columns, lanes), np.float32),
        np.zeros((columns, lanes), np.uint8),
        np.stack([_lay_across(one, lanes) for one in choices.scale]),
        np.stack([_lay_across(one, lanes) for one in choices.offset]),
        (factor.order[::group] // group).astype(np.int64),
    )
    values, steps = levels.values, np.diff(levels.values)
    kind = _Levels(values, values[:-1] + steps / np.float32(2), values.mean(), levels.uniform)
    width = max(COLUMNS, group)
    with one_blas_thread():
        for start in range(0, columns, WIDE):
            stop = min(start + WIDE, columns)
            wide = work.rows[start:stop]
            if start:
                wide = wide + factor.feedback[:start, start:stop].T @ work.errors[:start]
            for first in range(start, stop, width):
                last = min(first + width, stop)
                wanted = wide[first - start : last - start]
                if first > start:
                    share = factor.feedback[start:first, first:last].T
                    wanted = wanted + share @ work.errors[start:first]
                _choose(work, wanted, factor.feedback, factor.weight, first, group, kind)
    codes = np.empty((count, columns), np.uint8)
    codes[:, factor.order] = work.codes[:, :count].T
    scale, offset = (np.ascontiguousarray(one[0, :, :count].T) for one in (work.scale, work.offset))
    return codes, Scales(scale, offset)


class _Work(NamedTuple):
    """Rows on their way; columns are in the order of the factor, groups in that of the file."""

    rows: Floats
    errors: Floats
    """[C, lanes]: rows minus what their codes stand for, of the columns that are done"""
    codes: Codes
    scale: Floats
    """[scales to try, G, lanes]; what is chosen takes the first place"""
    offset: Floats
    """[offsets to try, G, lanes]; the same"""
    groups: NDArray[np.int64]
    """[G]: the groups in the order of the factor"""


class _Levels(NamedTuple):
    """Levels [L], and the middles between neighbours [L - 1]."""

    values: Floats
    middles: Floats
    middle: np.float32
    """of all levels"""
    uniform: bool


def _lay_across(values: Floats, lanes: int) -> Floats:
    """[columns, lanes] of [rows, columns], zeros behind the rows."""
    across = np.zeros((values.shape[1], lanes), np.float32)
    across[:, : len(values)] = values.T
    return across


class _Group(NamedTuple):
    """A group of n columns of LANES rows on trial."""

    wanted: Floats
    """[n, LANES]: with the feedback of all columns before the group"""
    rows: Floats
    """[n, LANES]"""
    feedback: Floats
    """[n, n]"""
    weight: Floats
    """[n]"""
    errors: Floats
    """[n, LANES]: of the last trial"""
    places: Floats
    """[n, LANES]: of the trial that is kept"""


@inlined
def _add_shares(aim: Floats, errors: Floats, shares: Floats, last: int) -> None:
    """aim [LANES] += the errors of the rows before `last`, each times its share; eight at a time,
    so that `aim` is seldom read and written."""
    eights = last // 8 * 8
    for i in range(0, eights, 8):
        a, b, c, d = shares[i], shares[i + 1], shares[i + 2], shares[i + 3]
        e, f, g, h = shares[i + 4], shares[i + 5], shares[i + 6], shares[i + 7]
        for k in range(LANES):
            aim[k] += (
                (errors[i, k] * a + errors[i + 1, k] * b)
                + (errors[i + 2, k] * c + errors[i + 3, k] * d)
            ) + (
                (errors[i + 4, k] * e + errors[i + 5, k] * f)
                + (errors[i + 6, k] * g + errors[i + 7, k] * h)
            )
    for i in range(eights, last):
        share = shares[i]
        for k in range(LANES):
            aim[k] += errors[i, k] * share


@inlined
def _nearest(wanted: np.float32, most: np.float32) -> np.float32:
    """The place nearest to a number of steps from the lowest of levels that are one apart."""
    at = most if wanted > most else wanted
    at = at if at > np.float32(0) else np.float32(0)
    return (at + TO_INTEGER) - TO_INTEGER


@apart
def _try(  # noqa: PLR0912 - a kernel has its loops
    group: _Group, scale: Floats, offset: Floats, kind: _Levels, cost: Floats, keep: bool
) -> None:
    """Errors of a group with a scale and an offset [LANES], and what they cost; the places as well
    where they are to be kept."""
    one, zero = np.float32(1), np.float32(0)
    most, low = np.float32(len(kind.values) - 1), kind.values[0]
    inverse, aim = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    steps, place = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for k in range(LANES):
        inverse[k] = one / scale[k] if abs(scale[k]) >= LEAST_SCALE else zero
        cost[k] = zero
    for j in range(group.wanted.shape[0]):
        for k in range(LANES):
            aim[k] = group.wanted[j, k]
        _add_shares(aim, group.errors, group.feedback[:, j], j)
        weight = group.weight[j]
        if kind.uniform:
            if keep:
                for k in range(LANES):
                    group.places[j, k] = _nearest((aim[k] - offset[k]) * inverse[k] - low, most)
            for k in range(LANES):
                at = _nearest((aim[k] - offset[k]) * inverse[k] - low, most)
                number = scale[k] * (at + low) + offset[k]
                cost[k] += weight * (aim[k] - number) * (aim[k] - number)
                group.errors[j, k] = group.rows[j, k] - number
        else:
            for k in range(LANES):
                steps[k], place[k] = (aim[k] - offset[k]) * inverse[k], zero
            for m in range(len(kind.middles)):
                middle = kind.middles[m]
                for k in range(LANES):
                    place[k] += one if steps[k] > middle else zero
            for k in range(LANES):
                number = scale[k] * kind.values[np.int64(place[k])] + offset[k]
                cost[k] += weight * (aim[k] - number) * (aim[k] - number)
                group.errors[j, k] = group.rows[j, k] - number
            if keep:
                group.places[j] = place


@inner
def _search(group: _Group, scale: Floats, offset: Floats, kind: _Levels) -> None:
    """Leave in the first place of `scale` and of `offset` [to try, LANES] those that cost least.

    First of all scales, each with the offset that keeps the middle level where it is; then of all
    offsets; then of all scales with that offset, of which the first was tried already.
    """
    cost, least = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    with_scale, best = np.empty(LANES, np.float32), np.zeros(LANES, np.int64)
    for turn in range(3 if len(offset) > 1 else 1):
        tried = offset if turn == 1 else scale
        best[:] = 0
        for trial in range(1 if turn == 2 else 0, len(tried) if len(tried) > 1 else 0):
            if turn == 0:
                _keep_middle(scale, offset, trial, kind.middle, with_scale)
                _try(group, scale[trial], with_scale, kind, cost, False)
            elif turn == 1:
                _try(group, scale[0], offset[trial], kind, cost, False)
            else:
                _try(group, scale[trial], offset[0], kind, cost, False)
            for k in range(LANES):
                if trial == 0 or cost[k] < least[k]:
                    least[k], best[k] = cost[k], trial
        for k in range(LANES if len(tried) > 1 else 0):
            chosen = tried[best[k], k]
            tried[best[k], k] = tried[0, k]
            tried[0, k] = chosen
    _try(group, scale[0], offset[0], kind, cost, True)


@inner
def _keep_middle(
    scale: Floats, offset: Floats, trial: int, middle: np.float32, found: Floats
) -> None:
    """Of the offsets the nearest to the one that leaves the number of the middle level where it was
    with the first scale."""
    for k in range(LANES):
        wanted = offset[0, k] - (scale[trial, k] - scale[0, k]) * middle
        found[k] = offset[0, k]
        for m in range(1, len(offset)):
            if abs(offset[m, k] - wanted) < abs(found[k] - wanted):
                found[k] = offset[m, k]


@compiled
def _choose(
    work: _Work,
    wanted: Floats,
    feedback: Floats,
    weight: Floats,
    first: int,
    n: int,
    kind: _Levels,
) -> None:
    """Scales, codes and errors of a block's columns from `first` on, groups of `n`; `wanted`
    [columns of it, lanes] has the feedback of all columns before the block."""
    aims, rows = np.empty((n, LANES), np.float32), np.empty((n, LANES), np.float32)
    errors, places = np.empty((n, LANES), np.float32), np.empty((n, LANES), np.float32)
    for start in range(first, first + wanted.shape[0], n):
        inside = feedback[start : start + n, start : start + n].copy()
        g = work.groups[start // n]
        for lane in range(0, wanted.shape[1], LANES):
            part = slice(lane, lane + LANES)
            rows[:] = work.rows[start : start + n, part]
            aims[:] = wanted[start - first : start - first + n, part]
            for j in range(n):
                before = work.errors[first:start, part]
                _add_shares(aims[j], before, feedback[first:start, start + j], start - first)
            group = _Group(aims, rows, inside, weight[start : start + n], errors, places)
            scale, offset = work.scale[:, g, part].copy(), work.offset[:, g, part].copy()
            _search(group, scale, offset, kind)
            work.scale[0, g, part], work.offset[0, g, part] = scale[0], offset[0]
            work.errors[start : start + n, part] = errors
            for j in range(n):
                for k in range(LANES):
                    work.codes[start + j, lane + k] = np.uint8(places[j, k])
