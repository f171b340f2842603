"""Our encoders against ggml's own kernels: the same bytes, whatever the numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import NumericError
from secateur.formats.ggml.codec import encode, encode_by_ggml
from secateur.formats.ggml.encoders import ENCODERS, WEIGHED_ENCODERS
from secateur.formats.ggml.engine import load_engine
from secateur.formats.ggml.grid_encoders import GRID_ENCODERS
from secateur.formats.ggml.ternary_encoders import TERNARY_ENCODERS
from secateur.formats.ggml.types import bytes_of, ggml_type

CASES = [(name, False) for name in ENCODERS] + [(name, True) for name in WEIGHED_ENCODERS]

WITH_CODEBOOKS = {*GRID_ENCODERS, *TERNARY_ENCODERS}
QUICK = [case for case in CASES if case[0] not in WITH_CODEBOOKS or case[0] == "IQ3_XXS"]
"""The other types with codebooks wait for ggml to make its tables, some for seconds."""

SLOW = [case for case in CASES if case not in QUICK]
BY_SPEED = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]


def ggml(name: str, rows: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
    load_engine().ggml_quantize_init(ggml_type(name).id)
    out = np.empty((len(rows), bytes_of(name, rows.shape[1:])), np.uint8)
    encode_by_ggml(rows, ggml_type(name), importance, out)
    return out


def ours(name: str, rows: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
    table = ENCODERS if importance is None else WEIGHED_ENCODERS
    return table[name](rows, importance)


def valid(name: str, data: np.ndarray) -> bool:
    """Whether all scales are finite."""
    return bool(
        load_engine().ggml_validate_row_data(ggml_type(name).id, data.ctypes.data, data.nbytes)
    )


def strange(chance: np.random.Generator, columns: int) -> np.ndarray:
    """Rows that leave the usual path of a search somewhere."""
    rows = (chance.standard_normal((20, columns)) * 0.02).astype(np.float32)
    rows[0] = 0
    rows[1] = np.abs(rows[1])
    rows[2] = -np.abs(rows[2])
    rows[3] = 1
    rows[4, : columns // 2] = 0
    rows[5, ::7] *= 50
    rows[6] *= np.float32(1e-20)
    rows[7] *= np.float32(1e-38)
    rows[8] *= np.float32(1e5)
    rows[9] = np.round(rows[9] * 100) / 100
    rows[10] = 0
    rows[10, 5] = 1
    rows[11] = -0.0
    rows[12, :256] = -3
    rows[13] *= np.float32(1e-10)
    rows[14] = np.sign(rows[14])
    rows[15, 32:64] = 1e-16
    rows[16] = (chance.standard_cauchy(columns) * 0.02).clip(-900, 900)
    rows[17] = np.abs(rows[17]) + 7
    rows[18, 16:32] = 0
    rows[19, 64:96] = 0
    return rows


@pytest.mark.parametrize(("name", "weighed"), BY_SPEED)
def test_the_same_bytes_as_ggmls(name: str, weighed: bool) -> None:
    chance = np.random.default_rng(len(name) + weighed)
    rows = strange(chance, 1024)
    importance = None
    if weighed:
        importance = (chance.random(1024, dtype=np.float32) ** 4).astype(np.float32)
        importance[:40] = 0
    expected = ggml(name, rows, importance)
    differing = (ours(name, rows, importance) != expected).any(1)
    assert not differing.any(), f"rows {np.flatnonzero(differing)}"


def compare_few_blocks(name: str, weighed: bool, rows: int, columns: int) -> None:
    chance = np.random.default_rng(rows * columns)
    numbers = chance.standard_normal((rows, columns)).astype(np.float32)
    importance = chance.random(columns, dtype=np.float32)
    given_to = importance if weighed else None
    np.testing.assert_array_equal(ours(name, numbers, given_to), ggml(name, numbers, given_to))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("columns", [256, 768])
def test_blocks_need_not_fill_a_vector(rows: int, columns: int) -> None:
    for name, weighed in QUICK:
        compare_few_blocks(name, weighed, rows, columns)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "weighed"), SLOW)
def test_a_few_blocks_of_types_with_codebooks(name: str, weighed: bool) -> None:
    for rows, columns in ((1, 256), (3, 768)):
        compare_few_blocks(name, weighed, rows, columns)


@pytest.mark.parametrize("columns", [32, 96, 704])
@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL"])
def test_rows_of_any_number_of_small_blocks(name: str, columns: int) -> None:
    chance = np.random.default_rng(columns)
    numbers = chance.standard_normal((5, columns)).astype(np.float32)
    importance = chance.random(columns, dtype=np.float32)
    np.testing.assert_array_equal(ours(name, numbers, importance), ggml(name, numbers, importance))


def any_numbers(cases: list[tuple[str, bool]]) -> dict[str, st.SearchStrategy]:
    return {
        "case": st.sampled_from(cases),
        "seed": st.integers(0, 2**32 - 1),
        "exponent": st.integers(-30, 12),
        "levels": st.sampled_from([0, 2, 3, 5, 16, 100]),
        "zeros": st.floats(0, 1),
    }


def compare_any_numbers(
    case: tuple[str, bool], seed: int, exponent: int, levels: int, zeros: float
) -> None:
    name, weighed = case
    chance = np.random.default_rng(seed)
    rows = chance.standard_normal((2, 512))
    if levels:
        rows = np.round(rows * levels) / levels
    rows[chance.random(rows.shape) < zeros] = 0
    rows = (rows * 10.0**exponent).astype(np.float32)
    importance = chance.random(512, dtype=np.float32) ** 3 if weighed else None
    got, expected = ours(name, rows, importance), ggml(name, rows, importance)
    # Where a scale is beyond float16 both are refused, whatever else they hold (codec.encode).
    assert valid(name, got) == valid(name, expected)
    if valid(name, expected):
        np.testing.assert_array_equal(got, expected)


@settings(max_examples=150, deadline=None)
@given(**any_numbers(QUICK))
def test_the_same_bytes_for_any_numbers(
    case: tuple[str, bool], seed: int, exponent: int, levels: int, zeros: float
) -> None:
    compare_any_numbers(case, seed, exponent, levels, zeros)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(**any_numbers(SLOW))
def test_the_same_bytes_for_any_numbers_with_codebooks(
    case: tuple[str, bool], seed: int, exponent: int, levels: int, zeros: float
) -> None:
    compare_any_numbers(case, seed, exponent, levels, zeros)


def test_weights_too_large_to_add_are_refused() -> None:
    """ggml ends the process: it finds no point that is near enough."""
    rows = np.full((1, 256), 1e5, np.float32)
    importance = np.full(256, 3e38, np.float32)
    for name in WITH_CODEBOOKS:
        with pytest.raises(NumericError, match=name):
            encode(rows, name, importance)
