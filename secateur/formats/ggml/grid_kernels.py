"""ggml's searches for the i-quants of 2 and 3 bits, all trials of a scale at once, bit for bit.

For every block of 16 or 32 numbers ggml tries up to 31 scales, and with each looks for the point
of the codebook that is nearest to each group of 4 or 8 numbers. Here a SIMD lane is a trial: the
levels' errors are computed for all trials first, and a point's distance is a sum of some of them.
Neighbouring trials mostly ask for the same points, so a list of points is gone through once for
all of these. All arithmetic is float32 without contraction, in ggml's order (ggml-quants.c of
llama.cpp 0c1e57098: quantize_row_iq3_xxs_impl, _iq3_s_impl, _iq2_xxs_impl, _iq2_xs_impl,
_iq2_s_impl). numba compiles anew when this file changes, but not when another does: so all that
call each other are here.

N blocks of n numbers, groups of 4 or 8 (`dims`); arrays over lanes are float32 or int32 [LANES].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from secateur.formats.ggml.codebooks import Integers, Near
from secateur.formats.ggml.search_kernels import Codes, F, Floats, I
from secateur.system.jit import apart, compiled, inlined, inner

LANES = 32
"""At least the number of trials of every type."""

_HUGE = F(np.finfo(np.float32).max)

# Which groups are looked up again with the scale found: those whose point had to be looked for;
# all, if one had to be; all.
WHERE_OFF, ALL_IF_ONE_OFF, ALWAYS = range(3)


class GridSearch(NamedTuple):
    """How blocks of `n` numbers are searched."""

    n: int
    top: np.float32
    """what the highest level stands for: 2 * levels - 1"""
    first: int
    trials: int
    step: np.float32
    """trial t makes the largest number come out at top + step * (first + t)"""
    again: int
    starts_off: bool = False
    """whether groups count as looked for, where no trial is better than none"""


class Weighing(NamedTuple):
    """How much the numbers count: their column's importance, or, where that is empty, their square
    and `share` of the mean of squares. `even`: eight signs are seven bits, with an even number
    below 0."""

    importance: Floats
    share: np.float32
    even: bool


class Blocks(NamedTuple):
    """What is searched: magnitudes and weights [N, n], the number `high` [N] that the highest
    level is tried for (0: the block counts as zeros), the scale [N] where no trial is better."""

    x: Floats
    w: Floats
    high: Floats
    plain: Floats


class _Block(NamedTuple):
    """One of them: magnitudes, weights and their roots [n]."""

    x: Floats
    w: Floats
    roots: Floats


class _Lanes(NamedTuple):
    """Of all trials: what numbers are multiplied by [LANES]; the points found and those that were
    looked for [n / dims, LANES]; room to work in [45, LANES], whose first two rows become the sums
    of w * x * q and w * q * q."""

    factors: Floats
    found: Integers
    wanted: Integers
    work: Floats


@inlined
def _clip_code(value: np.float32, most: np.int32) -> np.int32:
    """The nearest integer from 0 to `most`, as ggml rounds, kept to 32 bits for SIMD."""
    found = I(I(np.float32(value + F(12582912.0)).view(np.int32) & I(0x7FFFFF)) - I(0x400000))
    found = most if found > most else found
    return I(0) if found < I(0) else found


@apart
def _round_four(x: Floats, factors: Floats, bits: int, most: np.int32, packed: Integers) -> None:
    """Add the nearest levels of four numbers to the packed points, above what they hold."""
    a, b, c, d = x[0], x[1], x[2], x[3]
    one, half = F(1), F(0.5)
    for t in range(LANES):
        f = factors[t]
        packed[t] = I(
            packed[t] << 4 * bits
            | _clip_code(half * (f * a - one), most)
            | _clip_code(half * (f * b - one), most) << bits
            | _clip_code(half * (f * c - one), most) << 2 * bits
            | _clip_code(half * (f * d - one), most) << 3 * bits
        )


@apart
def _copy_lanes(source: Floats, start: int, target: Floats) -> None:
    for t in range(target.size):  # of a known size it would be unrolled, and copied one by one
        target[t] = source[start + t]


@apart
def _fill_errors(x: Floats, roots: Floats, values: Floats, errors: Floats) -> None:
    """Weighted squared errors [dims * levels * LANES] of what levels stand for [levels * LANES]."""
    span = values.size
    for i in range(x.size):
        number, root = x[i], roots[i]
        row = errors[i * span : i * span + span]
        for e in range(span):
            off = values[e] - number
            row[e] = root * off * off


@apart
def _nearest_of_four(
    errors: Floats, members: Integers, low: int, high: int, least: Floats, found: Integers
) -> None:
    """Lanes of `least` and `found` take the first of the members with a smaller sum of errors."""
    for j in range(low, high, 2):
        p, q = members[j], members[j + 1]
        pa, pb = (p & 7) * LANES, (8 + (p >> 3 & 7)) * LANES
        pc, pd = (16 + (p >> 6 & 7)) * LANES, (24 + (p >> 9 & 7)) * LANES
        qa, qb = (q & 7) * LANES, (8 + (q >> 3 & 7)) * LANES
        qc, qd = (16 + (q >> 6 & 7)) * LANES, (24 + (q >> 9 & 7)) * LANES
        for t in range(LANES):
            e = errors[pa + t] + errors[pb + t] + errors[pc + t] + errors[pd + t]
            f = errors[qa + t] + errors[qb + t] + errors[qc + t] + errors[qd + t]
            best, now = least[t], found[t]
            now = p if e < best else now
            best = e if e < best else best
            now = q if f < best else now
            best = f if f < best else best
            least[t] = best
            found[t] = now


@apart
def _nearest_of_eight(
    errors: Floats, members: Integers, low: int, high: int, least: Floats, found: Integers
) -> None:
    """The same for groups of eight."""
    for j in range(low, high, 2):
        p, q = members[j], members[j + 1]
        pa, pb = (p & 3) * LANES, (3 + (p >> 2 & 3)) * LANES
        pc, pd = (6 + (p >> 4 & 3)) * LANES, (9 + (p >> 6 & 3)) * LANES
        pe, pf = (12 + (p >> 8 & 3)) * LANES, (15 + (p >> 10 & 3)) * LANES
        pg, ph = (18 + (p >> 12 & 3)) * LANES, (21 + (p >> 14 & 3)) * LANES
        qa, qb = (q & 3) * LANES, (3 + (q >> 2 & 3)) * LANES
        qc, qd = (6 + (q >> 4 & 3)) * LANES, (9 + (q >> 6 & 3)) * LANES
        qe, qf = (12 + (q >> 8 & 3)) * LANES, (15 + (q >> 10 & 3)) * LANES
        qg, qh = (18 + (q >> 12 & 3)) * LANES, (21 + (q >> 14 & 3)) * LANES
        for t in range(LANES):
            e = errors[pa + t] + errors[pb + t] + errors[pc + t] + errors[pd + t]
            e = e + errors[pe + t] + errors[pf + t] + errors[pg + t] + errors[ph + t]
            f = errors[qa + t] + errors[qb + t] + errors[qc + t] + errors[qd + t]
            f = f + errors[qe + t] + errors[qf + t] + errors[qg + t] + errors[qh + t]
            best, now = least[t], found[t]
            now = p if e < best else now
            best = e if e < best else best
            now = q if f < best else now
            best = f if f < best else best
            least[t] = best
            found[t] = now


@apart
def _add_four(
    x: Floats, w: Floats, points: Integers, shift: int, bits: int, xq: Floats, qq: Floats
) -> None:
    """Add four numbers' shares to the sums of w * x * q and w * q * q."""
    mask = (1 << bits) - 1
    wa, wb, wc, wd = w[0], w[1], w[2], w[3]
    xa, xb, xc, xd = wa * x[0], wb * x[1], wc * x[2], wd * x[3]
    for t in range(LANES):
        p = I(points[t] >> shift)
        a = F(I(2 * I(p & mask) + 1))
        b = F(I(2 * I(p >> bits & mask) + 1))
        c = F(I(2 * I(p >> 2 * bits & mask) + 1))
        d = F(I(2 * I(p >> 3 * bits & mask) + 1))
        xq[t] = xq[t] + xa * a + xb * b + xc * c + xd * d
        qq[t] = qq[t] + wa * a * a + wb * b * b + wc * c * c + wd * d * d


@inner
def _nearest_alone(
    x: Floats, roots: Floats, scale: np.float32, bits: int, members: Integers, low: int, high: int
) -> np.int32:
    """The first of the members with the least error of one group, for one scale."""
    mask = (1 << bits) - 1
    found, best = I(members[low]), _HUGE
    for j in range(low, high):
        error = F(0)
        for i in range(x.size):
            off = scale * F(2 * (members[j] >> bits * i & mask) + 1) - x[i]
            error += roots[i] * off * off
        if error < best:
            best, found = error, I(members[j])
    return found


@inner
def _look_up_again(
    block: _Block, scale: np.float32, near: Near, asked: Codes, points: Integers
) -> np.float32:
    """The groups' points for one scale, where `asked`; returns the scale that fits all best."""
    x, w, starts = block.x, block.w, near.starts
    dims, bits = near.lattice.dims, near.lattice.bits
    mask, most = (1 << bits) - 1, I(near.lattice.levels - 1)
    factor = F(1) / scale
    for g in range(points.size):
        if asked[g]:
            some = x[g * dims : g * dims + dims]
            packed = I(0)
            for i in range(dims):
                packed |= _clip_code(F(0.5) * (factor * some[i] - F(1)), most) << bits * i
            points[g] = _nearest_alone(
                some, block.roots[g * dims : g * dims + dims], scale, bits,
                near.members, starts[packed], starts[packed + 1],
            )  # fmt: skip
    xq = qq = F(0)
    for i in range(x.size):
        q = F(2 * (points[i // dims] >> bits * (i % dims) & mask) + 1)
        xq += w[i] * x[i] * q
        qq += w[i] * q * q
    return np.float32(xq / qq if qq > F(0) else scale)


@inner
def _try_scales(block: _Block, search: GridSearch, near: Near, lanes: _Lanes) -> None:
    """Find the points of all groups for all trials, and their sums."""
    dims, bits, levels = near.lattice
    x, w, starts, members = block.x, block.w, near.starts, near.members
    factors, work = lanes.factors, lanes.work
    xq, qq, least = work[0], work[1], work[2]
    values = work[3 : 3 + levels].reshape(-1)
    errors = work[11 : 11 + dims * levels].reshape(-1)
    opening = work[43:45].reshape(-1)
    for t in range(LANES):
        xq[t] = qq[t] = F(0)
        opening[t], opening[LANES + t] = F(-1), _HUGE
    for level in range(levels):
        for t in range(LANES):
            values[level * LANES + t] = F(1) / factors[t] * F(2 * level + 1)
    for g in range(search.n // dims):
        some, found = x[g * dims : g * dims + dims], lanes.found[g]
        packed = lanes.wanted[g]
        for t in range(LANES):
            packed[t] = 0
        for i in range(dims - 4, -1, -4):
            _round_four(some[i : i + 4], factors, bits, I(levels - 1), packed)
        _fill_errors(some, block.roots[g * dims : g * dims + dims], values, errors)
        first = 0
        while first < search.trials:
            p = packed[first]
            # Lanes before this run of trials keep their points: no error is below -1.
            _copy_lanes(opening, LANES - first, least)
            if dims == 8:
                _nearest_of_eight(errors, members, starts[p], starts[p + 1], least, found)
            else:
                _nearest_of_four(errors, members, starts[p], starts[p + 1], least, found)
            while first < search.trials and packed[first] == p:
                first += 1
        for i in range(0, dims, 4):
            part = slice(g * dims + i, g * dims + i + 4)
            _add_four(x[part], w[part], found, bits * i, bits, xq, qq)


@compiled
def prepare_blocks(
    x: Floats, squares: Floats, weighing: Weighing, sizes: Floats, weights: Floats, signs: Codes
) -> None:
    """Magnitudes and weights [N, n] of the numbers x [N * n], and their signs [N, n / 8].

    `squares` belong to 256 neighbours each. Of eight numbers with an odd number below 0 the one
    that matters least has the other sign, where `even`: its magnitude may then be below 0.
    """
    importance = weighing.importance
    sizes, weights, signs = sizes.reshape(-1), weights.reshape(-1), signs.reshape(-1)
    for first in range(0, x.size, 8):
        square, sign, least, place = squares[first // 256], 0, _HUGE, 0
        odd = False
        for i in range(8):
            v = x[first + i]
            w = weighing.share * square + v * v
            if importance.size:
                w = importance[(first + i) % importance.size] * np.sqrt(square + v * v)
            weights[first + i] = w
            sizes[first + i] = v if v >= F(0) else -v
            sign |= 0 if v >= F(0) else 1 << i
            odd ^= v < F(0)
            cost = w * v * v
            place = i if cost < least or i == 0 else place
            least = cost if cost < least or i == 0 else least
        if weighing.even and odd:
            sizes[first + place] = -sizes[first + place]
            sign ^= 1 << place
        signs[first // 8] = sign


@compiled
def search_grid(blocks: Blocks, search: GridSearch, near: Near) -> tuple[Floats, Integers]:
    """(scales float32 [N], packed points int32 [N, n / dims]).

    A block that counts as zeros has the scale 0 and the points 0. A scale may come out below 0,
    and is not a number where sums overflow.
    """
    count, groups = len(blocks.x), search.n // near.lattice.dims
    scales, points = np.zeros(count, F), np.zeros((count, groups), I)
    found, wanted = np.zeros((groups, LANES), I), np.zeros((groups, LANES), I)
    lanes = _Lanes(np.empty(LANES, F), found, wanted, np.empty((45, LANES), F))
    roots, asked = np.empty(search.n, F), np.empty(groups, np.uint8)
    for b in range(count):
        high = blocks.high[b]
        if high == F(0):
            continue
        block = _Block(blocks.x[b], blocks.w[b], roots)
        for i in range(search.n):
            roots[i] = np.sqrt(block.w[i])
        for t in range(LANES):
            trial = F(search.first + min(t, search.trials - 1))
            lanes.factors[t] = (search.top + trial * search.step) / high
        _try_scales(block, search, near, lanes)
        if not (lanes.work[1, 0] <= _HUGE and high <= _HUGE):
            scales[b] = np.nan
            continue
        scale, at = _best_trial(lanes.work, search.trials, blocks.plain[b])
        off = search.starts_off if at < 0 else False
        for g in range(groups):
            asked[g] = at >= 0 and found[g, at] != wanted[g, at]
            off |= asked[g] != 0
            if at >= 0:
                points[b, g] = found[g, at]
        if search.again == ALWAYS or (off and search.again == ALL_IF_ONE_OFF):
            off = True
            for g in range(groups):
                asked[g] = 1
        if off and scale > F(0):
            scale = _look_up_again(block, scale, near, asked, points[b])
        scales[b] = scale
    return scales, points


@inner
def _best_trial(sums: Floats, trials: int, plain: np.float32) -> tuple[np.float32, int]:
    """(scale, number) of the first of the best trials; (`plain`, -1) if none is better than 0."""
    best, scale, at = F(0), plain, -1
    for t in range(trials):
        xq, qq = sums[0, t], sums[1, t]
        if qq > F(0) and xq * xq > best * qq:
            scale = xq / qq
            best, at = scale * xq, t
    return scale, at
