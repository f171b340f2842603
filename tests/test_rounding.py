"""Rounding with error feedback: the solver against its definition, and every grid."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from secateur.checkpoint.tensors import NamedTensor
from secateur.formats.ggml.code_layout import FIELDS
from secateur.formats.ggml.codec import decode, encode
from secateur.formats.ggml.types import bytes_of
from secateur.formats.mlx.codec import dequantize, mlx_type, quantize
from secateur.rounding.factor import (
    DAMPING,
    LEAST_TOKENS,
    Groups,
    damping_of,
    factorize,
    order_columns,
)
from secateur.rounding.feedback import choose, round_with_feedback
from secateur.rounding.ggml_grids import GGML_GRIDS
from secateur.rounding.ggml_types import FEEDBACK_GRIDS
from secateur.rounding.grid import Choices, Levels, Scales, integers
from secateur.rounding.mlx_grids import MlxGrid
from secateur.statistics.gram import stored_sums, whole_matrix

ROWS, COLUMNS, TOKENS = 70, 512, 2000
MLX = ("affine-2-64", "affine-3-32", "affine-4-64", "affine-5-128", "affine-6-64", "affine-8-64")


@pytest.fixture(scope="module")
def weights() -> NDArray[np.float32]:
    chance = np.random.default_rng(0)
    return (chance.standard_normal((ROWS, COLUMNS)) * 0.02).astype(np.float32)


@pytest.fixture(scope="module")
def gram() -> NDArray[np.float32]:
    """Of inputs that depend on each other, as hidden states do; some much larger than others."""
    chance = np.random.default_rng(1)
    mixed = chance.standard_normal((TOKENS, 64)) @ chance.standard_normal((64, COLUMNS))
    inputs = (mixed + chance.standard_normal(mixed.shape)) * np.geomspace(0.1, 3, COLUMNS)
    return (inputs.T @ inputs).astype(np.float32)


def output_error(
    rows: NDArray[np.float32], rounded: NDArray[np.float32], gram: NDArray[np.float32]
) -> float:
    """The squared error of a layer's outputs over the inputs behind the Gram matrix."""
    off = rows.astype(np.float64) - rounded
    return float(((off @ gram) * off).sum())


def by_definition(
    rows: NDArray[np.float32], scales: Scales, levels: Levels, gram: NDArray[np.float32]
) -> NDArray[np.float64]:
    """GPTQ as its paper writes it: errors spread by the Cholesky factor of the inverse, float64."""
    h = gram.astype(np.float64)
    diagonal = np.diagonal(gram).astype(np.float64)
    h[np.diag_indices_from(h)] += diagonal * COLUMNS / TOKENS + DAMPING * diagonal.mean()
    group = rows.shape[1] // scales.scale.shape[1]
    order = order_columns(diagonal, Groups(group))
    upper = np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)])).T
    left = rows.astype(np.float64)[:, order]
    found = np.empty_like(left)
    for at, column in enumerate(order):
        scale, offset = (part[:, column // group].astype(np.float64) for part in scales)
        distance = abs(scale[:, None] * levels.values + offset[:, None] - left[:, at, None])
        found[:, at] = scale * levels.values[distance.argmin(1)] + offset
        error = (left[:, at] - found[:, at]) / upper[at, at]
        left[:, at:] -= error[:, None] * upper[at, at:]
    return found[:, np.argsort(order)]


@pytest.mark.parametrize(
    "levels", [integers(0, 7), GGML_GRIDS["IQ4_NL"].levels], ids=["even", "uneven"]
)
def test_the_blocked_solver_is_gptq_in_float64(
    weights: NDArray[np.float32], gram: NDArray[np.float32], levels: Levels
) -> None:
    size = np.ptp(levels.values)
    scale = np.ptp(weights.reshape(ROWS, -1, 32), axis=2) / size
    offset = weights.reshape(ROWS, -1, 32).min(2) - scale * levels.values[0]
    scales = Scales(scale, offset)
    factor = factorize(gram, Groups(32), TOKENS)
    assert factor is not None
    codes, kept = choose(weights, Choices(scale[None], offset[None]), levels, factor)
    assert np.array_equal(kept.scale, scale) and np.array_equal(kept.offset, offset)
    number = np.repeat(scale, 32, 1) * levels.values[codes] + np.repeat(offset, 32, 1)
    expected = by_definition(weights, scales, levels, gram)
    # In float32 a number half way between two levels may go the other way, and those after it too.
    assert np.isclose(number, expected, atol=1e-6).mean() > 0.98
    ours, theirs = (output_error(weights, one, gram) for one in (number, expected))
    assert ours == pytest.approx(theirs, rel=2e-3)


def test_rows_are_rounded_independently_of_each_other(
    weights: NDArray[np.float32], gram: NDArray[np.float32]
) -> None:
    factor = factorize(gram, Groups(32), TOKENS)
    assert factor is not None
    grid = GGML_GRIDS["Q4_K"]
    whole = round_with_feedback(weights, encode(weights, "Q4_K"), grid, factor)
    few = weights[5:9].copy()
    part = round_with_feedback(few, encode(few, "Q4_K"), grid, factor)
    assert (whole[5:9] != part).mean() < 0.01


def test_inputs_that_were_always_zero_have_no_factor() -> None:
    assert factorize(np.zeros((64, 64), np.float32), Groups(32), TOKENS) is None


def test_inputs_so_small_that_their_sums_are_mostly_rounding_have_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sums are kept in units of 2**-16: what is left of these is no sum of squares."""
    small = np.random.default_rng(2).standard_normal((300, 256)) * 1e-3
    kept = whole_matrix(stored_sums(small.T @ small), 256)
    found = factorize(kept, Groups(32), 1 << 40)
    assert found is not None
    assert np.isfinite(found.feedback).all() and (found.weight > 0).all()
    monkeypatch.setattr("secateur.rounding.factor.DAMPING", 10 * DAMPING)
    more = factorize(kept, Groups(32), 1 << 40)
    assert more is not None and np.allclose(found.feedback, more.feedback)


def test_a_gram_matrix_counts_by_its_shape_and_not_its_size(gram: NDArray[np.float32]) -> None:
    one, other = (factorize(part, Groups(16), TOKENS) for part in (gram, gram / np.float32(1024)))
    assert one is not None and other is not None
    assert (one.order == other.order).all()
    assert np.array_equal(one.feedback, other.feedback)
    assert np.array_equal(one.weight, other.weight)


@pytest.mark.parametrize("tokens", [16, 64, 256, 1024])
def test_from_little_text_it_is_never_worse_than_nearest_on_other_text(
    weights: NDArray[np.float32], tokens: int
) -> None:
    """Inputs with a few common directions and much of their own, so that few tokens mislead: damped
    as if there were plenty, feedback is worse than nearest with half as many as columns."""
    chance = np.random.default_rng(2)
    mixing = chance.standard_normal((24, COLUMNS)) * 0.15
    sizes = np.geomspace(0.1, 3, COLUMNS)

    def gram_of(count: int) -> NDArray[np.float64]:
        own = chance.standard_normal((count, COLUMNS))
        inputs = (chance.standard_normal((count, 24)) @ mixing + own) * sizes
        return np.asarray(inputs.T @ inputs)

    other, seen = gram_of(4000), gram_of(tokens)
    for name in ("Q4_0", "Q4_K"):
        grid = GGML_GRIDS[name]
        nearest = encode(weights, name, np.diagonal(other).astype(np.float32))
        plain = output_error(weights, decode(nearest, name, weights.shape), other)
        errors = []
        for said in (tokens, 1 << 40):
            factor = factorize(seen, grid.groups, said)
            assert factor is not None
            rounded = round_with_feedback(weights, nearest, grid, factor)
            errors.append(output_error(weights, decode(rounded, name, weights.shape), other))
        assert errors[0] < plain and errors[0] < 0.95 * errors[1]
        if tokens < COLUMNS:
            assert errors[1] > plain


def test_fewer_tokens_are_no_measure_of_columns(gram: NDArray[np.float32]) -> None:
    assert factorize(gram, Groups(32), LEAST_TOKENS - 1) is None
    assert factorize(gram, Groups(32), LEAST_TOKENS) is not None


def test_columns_that_are_always_zero_ask_for_no_tokens(gram: NDArray[np.float32]) -> None:
    """Rows that are padded get the codes that they have without."""
    wider = np.pad(gram, (0, COLUMNS))
    one, other = factorize(gram, Groups(32), 100), factorize(wider, Groups(32), 100)
    assert one is not None and other is not None
    assert np.array_equal(one.order, other.order[:COLUMNS])


def test_groups_stay_together_and_the_largest_come_first(gram: NDArray[np.float32]) -> None:
    diagonal = np.diagonal(gram).astype(np.float64)
    groups = order_columns(diagonal, Groups(32)).reshape(-1, 32)
    assert (np.sort(groups, axis=1) == np.sort(groups // 32 * 32 + np.arange(32), axis=1)).all()
    assert (np.diff(diagonal[groups].mean(1)) <= 0).all()
    assert (np.diff(diagonal[groups], axis=1) <= 0).all()


def test_scales_are_those_of_all_that_are_tried_that_cost_least(
    weights: NDArray[np.float32], gram: NDArray[np.float32]
) -> None:
    """One group, so that its cost is the whole error; in float64, for all pairs that there are."""
    rows, part = weights[:, :32].copy(), gram[:32, :32].astype(np.float64)
    part[np.diag_indices(32)] += damping_of(np.diagonal(part), TOKENS)
    grid = GGML_GRIDS["Q4_K"]
    whole = np.concatenate([rows, np.zeros((ROWS, 224), np.float32)], axis=1)
    every = grid.choices(encode(whole, "Q4_K"), 256)
    choices = Choices(every.scale[:, :, :1], every.offset[:, :, :1])
    factor = factorize(gram[:32, :32], Groups(32), TOKENS)
    assert factor is not None

    def cost(tried: Choices) -> NDArray[np.float64]:
        codes, (scale, offset) = choose(rows, tried, grid.levels, factor)
        off = (rows - (scale * grid.levels.values[codes] + offset)).astype(np.float64)
        return np.asarray(((off @ part) * off).sum(1))

    pairs = [
        cost(Choices(choices.scale[i : i + 1], choices.offset[j : j + 1]))
        for i in range(len(choices.scale))
        for j in range(len(choices.offset))
    ]
    found, best = cost(choices), np.min(pairs, axis=0)
    assert (found <= pairs[0] * (1 + 1e-5)).all()  # never worse than the encoder's own
    assert found.sum() < 1.03 * best.sum()
    assert best.sum() < 0.95 * pairs[0].sum()


def test_every_type_with_a_code_for_each_number_has_a_grid() -> None:
    assert set(GGML_GRIDS) == set(FIELDS)


@pytest.mark.parametrize("name", GGML_GRIDS)
def test_every_ggml_grid_reads_and_writes_what_ggml_decodes(
    weights: NDArray[np.float32], gram: NDArray[np.float32], name: str
) -> None:
    grid = GGML_GRIDS[name]
    importance = None if name in ("MXFP4", "NVFP4") else np.diagonal(gram).copy()
    nearest = encode(weights, name, importance)
    choices = grid.choices(nearest, COLUMNS)
    scales = Scales(choices.scale[0], choices.offset[0])
    decoded = decode(nearest, name, weights.shape)
    scale, offset = (np.repeat(part, grid.group, 1) for part in scales)
    # Every number of the block is one of the grid's, to the bit.
    candidates = scale[..., None] * grid.levels.values + offset[..., None]
    places = abs(candidates - decoded[..., None]).argmin(2).astype(np.uint8)
    assert np.array_equal(
        np.take_along_axis(candidates, places[..., None].astype(int), 2)[..., 0], decoded
    )
    same = grid.with_numbers(nearest, places, scales)
    assert np.array_equal(decode(same, name, weights.shape), decoded)
    for scale, offset in zip(choices.scale, choices.offset, strict=False):
        other = grid.with_numbers(nearest, places, Scales(scale, offset))
        expected = np.repeat(scale, grid.group, 1) * grid.levels.values[places]
        expected += np.repeat(offset, grid.group, 1)
        assert np.allclose(decode(other, name, weights.shape), expected, atol=1e-7)
    factor = factorize(gram, grid.groups, TOKENS)
    assert factor is not None
    rounded = round_with_feedback(weights, nearest, grid, factor)
    assert rounded.shape == (ROWS, bytes_of(name, (COLUMNS,)))
    error = output_error(weights, decode(rounded, name, weights.shape), gram)
    assert error < 0.5 * output_error(weights, decoded, gram)


@pytest.mark.parametrize("name", [*MLX, "mxfp4"])
def test_every_mlx_grid_reads_and_writes_what_mlx_decodes(
    weights: NDArray[np.float32], gram: NDArray[np.float32], name: str
) -> None:
    kind = mlx_type(name)
    grid = MlxGrid(kind, "BF16")
    nearest = quantize(weights, kind, "BF16")

    def decoded(stored: object) -> NDArray[np.float32]:
        codes, scales, biases = stored  # type: ignore[misc]
        of_scales = NamedTensor("", "U8" if biases is None else "BF16", scales)
        of_biases = None if biases is None else NamedTensor("", "BF16", biases)
        return dequantize(codes, of_scales, of_biases, kind)

    factor = factorize(gram, grid.groups, TOKENS)
    assert factor is not None
    rounded = round_with_feedback(weights, nearest, grid, factor)
    assert rounded.codes.shape == nearest.codes.shape
    codes, scales = choose(weights, grid.choices(nearest, COLUMNS), grid.levels, factor)
    scale, offset = (np.repeat(part, kind.group, 1) for part in scales)
    assert np.array_equal(decoded(rounded), scale * grid.levels.values[codes] + offset)
    error = output_error(weights, decoded(rounded), gram)
    assert error < 0.5 * output_error(weights, decoded(nearest), gram)


def test_scales_next_to_the_largest_number_of_a_type_stay_in_it() -> None:
    """What is tried around them would be infinite; the encoder itself can store these rows."""
    rows = np.zeros((2, 64), np.float32)
    rows[:, :2] = -65504, 65000
    kind, factor = mlx_type("affine-2-64"), factorize(np.eye(64), Groups(64), TOKENS)
    assert factor is not None
    nearest = quantize(rows, kind, "F16")
    rounded = MlxGrid(kind, "F16").round(rows, nearest, factor)
    for one in (rounded.scales, rounded.biases):
        assert one is not None and np.isfinite(one).all()


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "MXFP4", "NVFP4", "IQ2_S"])
def test_zeros_stay_zeros(name: str, gram: NDArray[np.float32]) -> None:
    """Also those of a type whose least scale is next to nothing, but no zero."""
    grid = FEEDBACK_GRIDS[name]
    factor = factorize(gram, grid.groups, TOKENS)
    assert factor is not None
    rows = np.zeros((3, COLUMNS), np.float32)
    rounded = grid.round(rows, encode(rows, name), factor)
    assert not decode(rounded, name, rows.shape).any()
