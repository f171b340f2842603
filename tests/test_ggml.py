"""The encoder: ggml's bytes, the same for any number of threads, and refusals instead of aborts."""

import ctypes
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from secateur.errors import EngineError, FormatError, NumericError
from secateur.formats.ggml import codec as ggml
from secateur.formats.ggml import engine as ggml_engine
from secateur.formats.ggml.codec import ENCODABLE, decode, encode
from secateur.formats.ggml.encoders import NEED_IMPORTANCE
from secateur.formats.ggml.types import INTERNAL_TYPES, TYPES

GOLDEN = json.loads((Path(__file__).parent / "golden/ggml_encode.json").read_text())["sha256"]


def matrix() -> tuple[np.ndarray, np.ndarray]:
    """Weights [6, 1024] and an importance [1024], both float32, the same on every machine."""
    stream = np.random.RandomState(20261121)  # numpy promises this legacy stream never changes
    rows = (stream.standard_normal((6, 1024)) / 16).astype(np.float32)
    rows[1] = 0
    rows[2, ::7] *= 20
    importance = (stream.random_sample(1024) ** 4).astype(np.float32)
    return rows, importance


def cases(words: Iterable[str]) -> list[Any]:
    """Words that begin with a type; ggml builds the codebooks of three in seconds, anew for each
    process."""
    marks = {name: [pytest.mark.slow] for name in ("IQ1_S", "IQ1_M", "IQ2_S")}
    return [pytest.param(word, marks=marks.get(word.split()[0], [])) for word in words]


@pytest.mark.parametrize("case", cases(GOLDEN))
def test_bytes_equal_a_native_builds(case):
    name, label = case.split()
    rows, importance = matrix()
    got = encode(rows, name, importance if label == "importance" else None, workers=2)
    assert hashlib.sha256(got.tobytes()).hexdigest() == GOLDEN[case]


@pytest.mark.parametrize("name", ["Q4_0", "Q5_1", "Q8_0", "MXFP4", "TQ2_0", "F16", "BF16"])
def test_bytes_equal_gguf_pys(name):
    rows, _ = matrix()
    expected = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[name])
    np.testing.assert_array_equal(encode(rows, name).reshape(-1), expected.view(np.uint8).ravel())


@pytest.mark.parametrize("name", cases(sorted(set(ENCODABLE) - {"Q1_0", "Q2_0", "NVFP4"})))
def test_decoding_equals_gguf_pys(name):
    rows, importance = matrix()
    data = encode(rows, name, importance)
    expected = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name])
    np.testing.assert_allclose(decode(data, name, rows.shape, workers=3), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["Q4_K", "IQ2_XS", "Q8_0", "F16"])
@pytest.mark.parametrize("threads", [2, 3, 7, 100])
def test_the_number_of_threads_changes_nothing(name, threads, monkeypatch):
    monkeypatch.setattr(ggml, "_ELEMENTS", 2000)
    rows, importance = matrix()
    one = encode(rows, name, importance, workers=1)
    many = encode(rows, name, importance, workers=threads)
    np.testing.assert_array_equal(one, many)
    np.testing.assert_array_equal(
        decode(one, name, rows.shape), decode(one, name, rows.shape, workers=threads)
    )


@pytest.mark.parametrize("name", cases(ENCODABLE))
def test_zero_rows_and_zeros_encode(name):
    importance = np.ones(256, dtype=np.float32)
    assert encode(np.empty((0, 256), np.float32), name, importance).shape[0] == 0
    zeros = encode(np.zeros((2, 256), np.float32), name, importance)
    assert not decode(zeros, name, (2, 256)).any()


@pytest.mark.parametrize("name", sorted(NEED_IMPORTANCE))
def test_a_type_that_needs_importance_says_so(name):
    with pytest.raises(FormatError, match=f"{name} needs an importance matrix"):
        encode(np.ones((1, 256), np.float32), name)


def test_the_list_of_types_that_need_importance_is_the_engines():
    library = ggml_engine.load_engine()
    needs = {n for n in ENCODABLE if library.ggml_quantize_requires_imatrix(TYPES[n].id)}
    assert needs == NEED_IMPORTANCE


@pytest.mark.parametrize("name", ["Q4_K", "F32", "F16", "BF16", "IQ4_NL"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_an_error_and_no_abort(name, bad):
    rows = np.ones((3, 256), np.float32)
    rows[2, 5] = bad
    with pytest.raises(NumericError):
        encode(rows, name, workers=2)


def test_rounding_that_overflows_is_an_error():
    with pytest.raises(NumericError, match="65504"):
        encode(np.full((1, 32), 1e5, np.float32), "F16")
    with pytest.raises(NumericError, match="BF16"):
        encode(np.full((1, 32), 3.4e38, np.float32), "BF16")


def test_floats_round_half_to_even():
    half = np.array([[1 + 2**-11, 1 + 3 * 2**-11, 2**-25, -0.0]], np.float32)
    got = encode(half, "F16").view(np.float16)
    np.testing.assert_array_equal(got, [[1, 1 + 2 * 2**-10, 0, -0.0]])
    brain = np.array([[1 + 2**-8, 1 + 3 * 2**-8]], np.float32)
    np.testing.assert_array_equal(decode(encode(brain, "BF16"), "BF16", (2,)), [1, 1 + 2**-6])


def test_wrong_shapes_are_refused():
    rows = np.ones((2, 96), np.float32)
    with pytest.raises(FormatError, match="96"):
        encode(rows, "Q4_K")
    with pytest.raises(FormatError, match=r"\(32,\)"):
        encode(rows, "Q8_0", np.ones(32, np.float32))
    with pytest.raises(FormatError, match="204 bytes, got 34"):
        decode(np.zeros(34, np.uint8), "Q8_0", (2, 96))
    with pytest.raises(ValueError, match="float32"):
        encode(rows.astype(np.float64), "Q8_0")
    for name in INTERNAL_TYPES | {"I32"}:
        with pytest.raises(FormatError, match="not stored"):
            encode(np.ones((1, 256), np.float32), name)


def test_every_encodable_type_is_in_the_golden_file():
    assert {case.split()[0] for case in GOLDEN} | {"F32"} == set(ENCODABLE)


def test_the_engine_names_its_version_when_results_differ(monkeypatch):
    monkeypatch.setattr(ggml_engine, "_EXACT_SHA256", "0" * 64)
    library = ctypes.CDLL(str(ggml_engine.find_library()))
    ggml_engine._declare(library)
    with pytest.raises(EngineError, match=rf"{ggml_engine.PACKAGE} \d"):
        ggml_engine._check_results(library, ggml_engine.engine_version())


def test_the_engine_names_its_version_when_a_type_differs(monkeypatch):
    odd = {**TYPES, "Q4_0": TYPES["Q4_1"]}
    monkeypatch.setattr(
        ggml_engine, "TYPES", {**odd, "Q8_0": type(TYPES["Q8_0"])("Q8_0", 8, 32, 35)}
    )
    with pytest.raises(EngineError, match="install another version"):
        ggml_engine.load_engine.__wrapped__()


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(ggml_engine, "PACKAGE", "no_such_package")
    with pytest.raises(EngineError, match="pip install no_such_package"):
        ggml_engine.engine_version()
    with pytest.raises(EngineError, match="no extension module"):
        ggml_engine.find_library()
