"""MLX's quantized types against mlx itself: the same bits, in both directions."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from secateur.checkpoint.tensors import NamedTensor
from secateur.errors import FormatError, NumericError
from secateur.formats.mlx.codec import TYPES, dequantize, mlx_type, pack, parts_of, quantize, unpack

FLOATS = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}


@pytest.fixture(autouse=True)
def on_the_cpu() -> None:
    mx.set_default_device(mx.cpu)


def weights(dtype: str, seed: int = 0) -> mx.array:
    """Rows of several magnitudes, a row of zeros, one of a single number, one-sided ones."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((48, 256), dtype=np.float32)
    rows *= random.choice([1e-9, 1e-3, 1, 30], (48, 1)).astype(np.float32)
    rows[0] = 0
    rows[1] = 0.37
    rows[2:6] = np.abs(rows[2:6])
    rows[6:10] = -np.abs(rows[6:10])
    return mx.array(rows).astype(FLOATS[dtype])


def bits_of(array: mx.array) -> NDArray[Any]:
    return np.array(array.view(mx.uint16) if array.itemsize == 2 else array)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", TYPES)
def test_codes_scales_and_biases_are_those_of_mlx(name: str, dtype: str) -> None:
    kind, given = TYPES[name], weights(dtype)
    expected = mx.quantize(given, kind.group, kind.bits, mode=kind.mode)
    got = quantize(np.array(given.astype(mx.float32)), kind, dtype)
    found = [part for part in got if part is not None]
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        raw = bits_of(theirs)
        assert mine.view(raw.dtype).shape == raw.shape
        assert np.array_equal(mine.view(raw.dtype), raw)
    parts = parts_of("a.weight", kind, given.shape, dtype)
    assert [part.nbytes for part in parts] == [array.nbytes for array in found]
    assert [part.shape for part in parts] == [array.shape for array in expected]


@pytest.mark.parametrize("name", TYPES)
def test_numbers_are_those_that_mlx_reads(name: str) -> None:
    kind, given = TYPES[name], weights("BF16", seed=1)
    codes, scales, *biases = mx.quantize(given, kind.group, kind.bits, mode=kind.mode)
    if biases:
        wide = (scales.astype(mx.float32), biases[0].astype(mx.float32))
        dtype, offsets = "BF16", NamedTensor("", "BF16", bits_of(biases[0]))
    else:
        wide, dtype, offsets = (scales, None), "U8", None
    expected = mx.dequantize(codes, *wide, kind.group, kind.bits, mode=kind.mode)
    got = dequantize(np.array(codes), NamedTensor("", dtype, bits_of(scales)), offsets, kind)
    assert np.array_equal(got, np.array(expected.astype(mx.float32)))


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_scale_of_mxfp4_is_mlxs(dtype: str) -> None:
    """Each number of the type as the largest of its group, beside random smaller ones.

    Left out: groups below 2**-117 in BF16, whose scale has no byte.
    """
    random = np.random.default_rng(2)
    largest = np.arange(*((0x0500, 0x7F80) if dtype == "BF16" else (1, 0x7C00)), dtype=np.uint16)
    less = random.integers(0, 400, (len(largest), 32))
    raw = np.maximum(largest[:, None].astype(np.int64) - less, 0).astype(np.uint16)
    raw[:, 3] = largest
    raw |= random.integers(0, 2, raw.shape).astype(np.uint16) << np.uint16(15)
    given = mx.array(raw).view(FLOATS[dtype])
    codes, scales = mx.quantize(given, 32, 4, mode="mxfp4")
    got = quantize(np.array(given.astype(mx.float32)), TYPES["mxfp4"], dtype)
    assert np.array_equal(got.scales, np.array(scales))
    assert np.array_equal(got.codes, np.array(codes))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_packing_loses_nothing(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, (5, 96)).astype(np.uint8)
    words = pack(codes, bits)
    assert words.shape == (5, 96 * bits // 32)
    assert np.array_equal(unpack(words, bits), codes)


def test_more_rows_than_a_block_give_the_same() -> None:
    rows = np.random.default_rng(3).standard_normal((3000, 128), dtype=np.float32)
    kind = TYPES["affine-4-64"]
    whole, part = quantize(rows, kind, "F32"), quantize(rows[2900:], kind, "F32")
    assert np.array_equal(whole.codes[2900:], part.codes)
    assert np.array_equal(whole.scales[2900:], part.scales)


def test_an_unknown_type_lists_the_known_ones() -> None:
    with pytest.raises(FormatError, match="affine-BITS-GROUP with 2, 3, 4, 5, 6 or 8 bits"):
        mlx_type("affine-7-64")


def test_rows_that_do_not_divide_are_refused_with_a_remedy() -> None:
    with pytest.raises(FormatError, match="rows of 96.*groups of 64.*choose a group of 32"):
        parts_of("a.weight", TYPES["affine-4-64"], (8, 96), "BF16")
    with pytest.raises(FormatError, match="rows of 48.*the type none"):
        parts_of("a.weight", TYPES["mxfp4"], (8, 48), "BF16")


def test_a_number_too_large_for_its_type_is_refused() -> None:
    kind = TYPES["affine-4-64"]
    with pytest.raises(NumericError, match="too large for F16"):
        quantize(np.full((1, 64), 1e20, np.float32), kind, "F16")
    with pytest.raises(NumericError, match=r"a weight of 3e\+38 is too large"):
        quantize(np.full((1, 64), -3e38, np.float32), kind, "F32")
