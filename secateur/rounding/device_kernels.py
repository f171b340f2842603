"""Codes and scales of rows, chosen with error feedback on a CUDA device: feedback.py's search.

One program takes ROWS rows through all columns. What the columns before a block add to it is a
product in float32; inside a block one group follows the other, and the trials of a group run side
by side, each in a lane of its own. A row depends on no other, and its sums are always added in the
same order.

Shapes: R rows, C columns, G groups. All arrays are contiguous:

    given         rows [R, C], then scales to try [SCALES, R, G], then offsets [OFFSETS, R, G]
    order         int32 [C], of the factor; also shares [C, C], the transpose of its feedback, and
                  weight [C]
    levels        [LEVELS], then the middles between neighbours [LEVELS - 1]
    errors        [C, programs * ROWS]: of columns that are done; of others, what is wanted
    trials        [GROUP, programs * ROWS * TRIALS]: the same of the group on trial
    codes         uint8 [R, C]: places among the levels
    chosen        [2, R, G]: scales and offsets
"""

# Triton has types of its own, and reads them where a kernel is called.
# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

LEAST_SCALE = tl.constexpr(2.0**-127)
TO_INTEGER = tl.constexpr(12582912.0)


@triton.jit
def choose_codes(
    given, order, shares, weight, levels, errors, trials, codes, chosen, count, columns, middle,
    ROWS: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
    CHUNK: tl.constexpr, SCALES: tl.constexpr, OFFSETS: tl.constexpr, TRIALS: tl.constexpr,
    TURNS: tl.constexpr, LEVELS: tl.constexpr, UNIFORM: tl.constexpr,
):  # fmt: skip
    """Fill `codes`, and `chosen` with scales and offsets, for `count` rows."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    across = tl.num_programs(0) * ROWS
    groups = columns // GROUP
    every = count * groups
    rows, scale = given, given + count * columns
    offset = scale + SCALES * every
    t = tl.arange(0, TRIALS)
    for first in range(0, columns, BLOCK):
        c = first + tl.arange(0, BLOCK)
        there = c < columns
        places = tl.load(order + c, mask=there, other=0)
        wanted = tl.load(
            rows + r[None, :] * columns + places[:, None],
            mask=there[:, None] & (r < count)[None, :], other=0.0,
        )  # fmt: skip
        wanted = _add_feedback(wanted, shares, errors, 0, first, c, r, columns, across, STEP)
        tl.store(errors + c[:, None] * across + r[None, :], wanted, mask=there[:, None])
        tl.debug_barrier()
        for start in range(first, tl.minimum(first + BLOCK, columns), GROUP):
            own = start + tl.arange(0, GROUP)
            where = errors + own[:, None] * across + r[None, :]
            aims = tl.load(where)
            aims = _add_feedback(aims, shares, errors, first, start, own, r, columns, across, STEP)
            tl.debug_barrier()
            tl.store(where, aims)
            tl.debug_barrier()
            g = tl.load(order + start) // GROUP
            near = (r * groups + g)[:, None] + t[None, :] * every
            known = (r < count)[:, None]
            scales = tl.load(scale + near, mask=known & (t < SCALES)[None, :], other=0.0)
            offsets = tl.load(offset + near, mask=known & (t < OFFSETS)[None, :], other=0.0)
            for turn in range(TURNS):
                last = turn == TURNS - 1
                of_offsets = (turn == 1) & (TURNS == 4)
                tried_scales, tried_offsets = scales, offsets
                if turn == 0:
                    tried_offsets = _keep_middle(scales, offsets, t, middle, OFFSETS)
                if last | of_offsets:
                    tried_scales = _all_first(scales, t)
                if last | (turn == 2):
                    tried_offsets = _all_first(offsets, t)
                cost = _try(
                    rows, order, shares, weight, levels, errors, trials, codes, tried_scales,
                    tried_offsets, start, last, count, columns, ROWS, GROUP, STEP, CHUNK, TRIALS,
                    LEVELS, UNIFORM,
                )  # fmt: skip
                if of_offsets:
                    offsets = _put_first(offsets, cost, t, OFFSETS)
                elif turn < TURNS - 1:
                    scales = _put_first(scales, cost, t, SCALES)
            tl.store(chosen + r * groups + g, _take(scales, t, 0), mask=r < count)
            tl.store(chosen + every + r * groups + g, _take(offsets, t, 0), mask=r < count)
            tl.debug_barrier()


@triton.jit
def _add_feedback(wanted, shares, errors, begin, end, c, r, columns, across, STEP: tl.constexpr):
    """wanted [columns c, rows r] and what the errors of the columns from begin to end add."""
    for k in range(begin, end, STEP):
        before = k + tl.arange(0, STEP)
        share = tl.load(
            shares + c[:, None].to(tl.int64) * columns + before[None, :],
            mask=(c < columns)[:, None],
            other=0.0,
        )
        error = tl.load(
            errors + before[:, None] * across + r[None, :], mask=(before < end)[:, None], other=0.0
        )
        wanted = tl.dot(share, error, wanted, input_precision="ieee")
    return wanted


@triton.jit
def _take(tried, t, place):
    """[ROWS]: what is in a place of tried [ROWS, TRIALS]."""
    return tl.sum(tl.where((t == place)[None, :], tried, 0.0), 1)


@triton.jit
def _all_first(tried, t):
    """[ROWS, TRIALS]: the first in every place."""
    return _take(tried, t, 0)[:, None] + tl.zeros_like(tried)


@triton.jit
def _put_first(tried, cost, t, TRIED: tl.constexpr):
    """tried [ROWS, TRIALS] with the first and the one that costs least in each other's place."""
    cost = tl.where((t < TRIED)[None, :], cost, float("inf"))
    best = t[None, :] == tl.argmin(cost, 1)[:, None]
    chosen = tl.sum(tl.where(best, tried, 0.0), 1)
    tried = tl.where(best, _take(tried, t, 0)[:, None], tried)
    return tl.where((t == 0)[None, :], chosen[:, None], tried)


@triton.jit
def _keep_middle(scales, offsets, t, middle, OFFSETS: tl.constexpr):
    """[ROWS, TRIALS]: of the offsets the nearest to the one that leaves the number of the middle
    level where it was with the first scale."""
    found = _all_first(offsets, t)
    wanted = found - (scales - _all_first(scales, t)) * middle
    for m in tl.static_range(1, OFFSETS):
        other = _take(offsets, t, m)[:, None]
        found = tl.where(tl.abs(other - wanted) < tl.abs(found - wanted), other, found)
    return found


@triton.jit
def _try(
    rows, order, shares, weight, levels, errors, trials, codes, scales, offsets, start, last,
    count, columns, ROWS: tl.constexpr, GROUP: tl.constexpr, STEP: tl.constexpr,
    CHUNK: tl.constexpr, TRIALS: tl.constexpr, LEVELS: tl.constexpr, UNIFORM: tl.constexpr,
):  # fmt: skip
    """[ROWS, TRIALS]: what a group costs with scales and offsets [ROWS, TRIALS]; in the last turn
    the codes and the errors of the first trial are kept.

    Columns go in chunks, whose errors stay in registers; those of the chunks before a chunk are in
    `trials`.
    """
    lane = tl.arange(0, ROWS * TRIALS)
    r = tl.program_id(0) * ROWS + lane // TRIALS
    across = tl.num_programs(0) * ROWS
    mine = tl.program_id(0) * ROWS * TRIALS + lane
    wide = across * TRIALS
    scale, offset = tl.reshape(scales, (ROWS * TRIALS,)), tl.reshape(offsets, (ROWS * TRIALS,))
    one = tl.full((ROWS * TRIALS,), 1.0, tl.float32)
    inverse = tl.where(tl.abs(scale) >= LEAST_SCALE, tl.div_rn(one, scale), 0.0)
    cost = tl.zeros((ROWS * TRIALS,), tl.float32)
    low = tl.load(levels)
    before = trials + (0 - start) * wide
    keep = (r < count) & (lane % TRIALS == 0) & last
    for chunk in range(start, start + GROUP, CHUNK):
        c = chunk + tl.arange(0, CHUNK)
        tile = tl.load(errors + c[:, None] * across + r[None, :])
        tile = _add_feedback(tile, shares, before, start, chunk, c, mine, columns, wide, STEP)
        tl.store(before + c[:, None] * wide + mine[None, :], tile)
        tl.debug_barrier()
        done = ()
        for n in tl.static_range(CHUNK):
            column = chunk + n
            aim = tl.load(before + column * wide + mine)
            place = r * columns + tl.load(order + column)
            row = tl.load(rows + place, mask=r < count, other=0.0)
            share = shares + tl.cast(column, tl.int64) * columns + chunk
            for i in tl.static_range(n):
                aim += done[i] * tl.load(share + i)
            at = (aim - offset) * inverse
            if UNIFORM:
                at = tl.minimum(tl.maximum(at - low, 0.0), LEVELS - 1.0)
                at = (at + TO_INTEGER) - TO_INTEGER
                number = scale * (at + low) + offset
            else:
                level = tl.zeros((ROWS * TRIALS,), tl.int32)
                for m in tl.static_range(LEVELS - 1):
                    level += (at > tl.load(levels + LEVELS + m)).to(tl.int32)
                number = scale * tl.load(levels + level) + offset
                at = level.to(tl.float32)
            wrong = aim - number
            cost += tl.load(weight + column) * wrong * wrong
            done = done + (row - number,)
            tl.store(codes + place, at.to(tl.uint8), mask=keep)
        tl.debug_barrier()
        for n in tl.static_range(CHUNK):
            tl.store(before + (chunk + n) * wide + mine, done[n])
            tl.store(errors + (chunk + n) * across + r, done[n], mask=keep)
        tl.debug_barrier()
    return tl.reshape(cost, (ROWS, TRIALS))
