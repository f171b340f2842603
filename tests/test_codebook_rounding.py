"""Codebook types with error feedback: what the bytes mean, and that the best points are found."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from secateur.formats.ggml.codec import decode, encode
from secateur.formats.ggml.grid_layout import GRID_LAYOUTS, SUPER, GridParts
from secateur.formats.ggml.types import bytes_of
from secateur.rounding.codebook_grids import CODEBOOK_GRIDS, SHIFT
from secateur.rounding.factor import Factor, Groups, damping_of, factorize

ROWS, COLUMNS, TOKENS = 12, 512, 2000
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def weights() -> Floats:
    chance = np.random.default_rng(0)
    return (chance.standard_normal((ROWS, COLUMNS)) * 0.02).astype(np.float32)


@pytest.fixture(scope="module")
def gram() -> Floats:
    """Of inputs that depend on each other, some much larger than others."""
    chance = np.random.default_rng(1)
    mixed = chance.standard_normal((TOKENS, 64)) @ chance.standard_normal((64, COLUMNS))
    inputs = (mixed + chance.standard_normal(mixed.shape)) * np.geomspace(0.1, 3, COLUMNS)
    return (inputs.T @ inputs).astype(np.float32)


def make_factor(gram: Floats, groups: Groups) -> Factor:
    factor = factorize(gram, groups, TOKENS)
    assert factor is not None
    return factor


def cost(off: NDArray[np.floating], gram: Floats) -> NDArray[np.float64]:
    """[R]: what errors [R, C] cost, as the solver reckons."""
    damped = gram.astype(np.float64)
    damped[np.diag_indices_from(damped)] += damping_of(np.diagonal(damped), TOKENS)
    return np.asarray(((off @ damped) * off).sum(1))


@pytest.mark.parametrize("name", GRID_LAYOUTS)
def test_parts_are_packed_as_ggml_decodes_them(name: str) -> None:
    layout, chance = GRID_LAYOUTS[name], np.random.default_rng(2)
    dims, count = layout.lattice.dims, 40
    signs = chance.integers(0, 256, (count, 32), dtype=np.uint8)
    if layout.signs == "even":  # the eighth sign makes their number even
        odd = np.bitwise_xor.reduce(np.unpackbits(signs & 127, axis=1).reshape(count, 32, 8), 2)
        signs = (signs & 127) | odd << 7
    if layout.signs == "shift":
        signs = np.repeat(signs[:, :: layout.shared // 8] & 1, layout.shared // 8, axis=1)
    parts = GridParts(
        chance.integers(0, layout.book, (count, SUPER // dims), dtype=np.uint16),
        signs,
        chance.integers(0, layout.most + 1, (count, SUPER // layout.n), dtype=np.uint8),
        chance.random(count).astype(np.float16),
    )
    blocks = layout.pack(parts)
    assert blocks.shape == (count, bytes_of(name, (SUPER,)))
    d, scales = layout.read_scales(blocks)
    assert np.array_equal(d, parts.d) and np.array_equal(scales, parts.scales)
    every = decode(layout.all_points(), name, (layout.book // (SUPER // dims), SUPER))
    numbers = every.reshape(-1, dims)[parts.points].reshape(count, SUPER)
    if layout.signs == "shift":  # points are read shifted up
        numbers = numbers - np.repeat(parts.signs, 8, axis=1) * np.float32(2 * SHIFT)
    else:
        below = np.unpackbits(parts.signs, axis=1, bitorder="little")
        numbers = numbers * np.where(below, -1, 1)
    scale = parts.d.astype(np.float32)[:, None] * (2 * parts.scales + 1)
    expected = np.repeat(scale, layout.n, 1) * numbers
    assert np.array_equal(decode(blocks, name, (count, SUPER)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", CODEBOOK_GRIDS)
def test_codes_make_up_for_each_others_errors(name: str, weights: Floats, gram: Floats) -> None:
    grid = CODEBOOK_GRIDS[name]
    nearest = encode(weights, name, np.diagonal(gram).copy())
    factor = make_factor(gram, grid.groups)
    rounded = grid.round(weights, nearest, factor)
    assert rounded.shape == nearest.shape and rounded.dtype == np.uint8
    before, after = (
        cost(weights - decode(one, name, weights.shape), gram) for one in (nearest, rounded)
    )
    assert (after < 0.5 * before).all()
    few = weights[3:5].copy()
    part = grid.round(few, encode(few, name, np.diagonal(gram).copy()), factor)
    assert (part != rounded[3:5]).mean() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", CODEBOOK_GRIDS)
def test_without_feedback_the_best_of_all_points_and_signs_is_found(
    name: str, weights: Floats
) -> None:
    """Of inputs that do not depend on each other, against every point with all signs or shifts
    that the type can store with the scale."""
    grid, layout = CODEBOOK_GRIDS[name], GRID_LAYOUTS[name]
    rows = weights[:2, :SUPER].copy()
    diagonal = np.random.default_rng(3).uniform(1, 2, SUPER).astype(np.float32)
    factor = make_factor(np.diag(diagonal), grid.groups)
    rounded = grid.round(rows, encode(rows, name, diagonal), factor)
    d, codes = layout.read_scales(rounded)
    scale = np.repeat(d.astype(np.float32)[:, None] * (2 * codes + 1), layout.n // 8, 1)
    points = decode(layout.all_points(), name, (layout.book * layout.lattice.dims // SUPER, SUPER))
    points = points.reshape(-1, layout.lattice.dims)
    weight = diagonal.reshape(-1, 8)
    decoded = decode(rounded, name, rows.shape).reshape(2, -1, 8)
    found = ((decoded - rows.reshape(2, -1, 8)) ** 2 * weight).sum(2)
    best = np.empty_like(found)
    for row, eight in np.ndindex(found.shape):
        x, w, one = rows[row].reshape(-1, 8)[eight], weight[eight], scale[row, eight]
        there = points
        if layout.shared == 8:
            there = np.concatenate([points, points - 2 * SHIFT])
        elif layout.shared:  # the block's shift is given
            up = np.isclose((decoded[row, eight] / one - SHIFT) % 1, 0).all()
            there = points if up else points - 2 * SHIFT
        best[row, eight] = _best_of_all(x, w, one * there, layout.signs)
    assert (found >= best * (1 - 1e-5)).all()
    assert (found <= best * (1 + 1e-5)).mean() > 0.85
    assert found.sum() < 1.02 * best.sum()


def _best_of_all(x: Floats, w: Floats, points: Floats, kind: str) -> float:
    """The least error of eight numbers, over points [N, dims] in all their places."""
    dims = points.shape[1]
    least = []  # of each group the least error with an even and with an odd number below 0
    for at in range(0, 8, dims):
        some = (1,) if kind == "shift" else (1, -1)
        signs = np.array(list(itertools.product(some, repeat=dims)), np.float32)
        off = x[at : at + dims] - signs[:, None] * points
        errors = (off * off * w[at : at + dims]).sum(2).min(1)
        odd = (signs < 0).sum(1) % 2 == 1
        least.append(tuple(errors[these].min(initial=np.inf) for these in (~odd, odd)))
    if kind != "even":
        return float(sum(min(pair) for pair in least))
    if len(least) == 1:
        return float(least[0][0])
    return float(min(least[0][0] + least[1][0], least[0][1] + least[1][1]))
