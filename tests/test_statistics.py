"""Statistics files, and merging them: exact, in any order, to the byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secateur.errors import StatisticsError
from secateur.statistics import exact
from secateur.statistics.statistics import FIELDS, Statistics, load, merge, save

MODEL = {"source": "a/model", "identity": "1234", "experts": 4, "top_k": 2, "layers": 2}
EXPERTS = 4


def made(
    seed: int, categories: tuple[str, ...] = ("code", "prose"), shas: str = "abc", **model: Any
) -> Statistics:
    """Statistics of random numbers, shaped as `calibrate` makes them: layer 1 routed."""
    random = np.random.default_rng(seed)
    shape = (len(categories), EXPERTS)
    samples: list[Mapping[str, Any]] = [
        {
            "source": f"file{number % 2}",
            "category": categories[number % len(categories)],
            "sha256": sha * 64,
            "tokens": int(random.integers(1, 99)),
        }
        for number, sha in enumerate(sorted(shas))
    ]
    squares = exact.limbs(random.random((EXPERTS, 6)) * 1e4)
    return Statistics(
        model={**MODEL, **model},
        categories=categories,
        tokens={name: int(random.integers(1, 1000)) for name in categories},
        skipped=int(random.integers(0, 3)),
        corpora=({"sha256": f"corpus{seed}", "mix": "m"},),
        samples=tuple(samples),
        arrays={
            "imatrix.layers.1.experts.up.sums": squares,
            "imatrix.layers.1.experts.up.tokens": random.integers(0, 99, EXPERTS),
            "layer.1.largest": random.random(shape).astype(np.float32),
            "layer.1.samples": random.integers(0, 2**40, (len(samples), EXPERTS)),
            "layer.1.sums": exact.limbs(random.random((len(FIELDS), *shape)) * 1e3),
            "layer.1.tokens": random.integers(0, 99, shape),
        },
    )


def as_bytes(statistics: Statistics, folder: Path) -> bytes:
    path = folder / "statistics.safetensors"
    save(statistics, path)
    return path.read_bytes()


def test_a_saved_file_loads_to_the_same_and_saves_to_the_same_bytes(tmp_path: Path) -> None:
    written = as_bytes(made(1), tmp_path)
    loaded = load(tmp_path / "statistics.safetensors")
    assert loaded.header() == made(1).header()
    assert sorted(loaded.arrays) == sorted(made(1).arrays)
    for name, array in made(1).arrays.items():
        assert loaded.arrays[name].dtype == array.dtype
        assert np.array_equal(loaded.arrays[name], array)
    assert as_bytes(loaded, tmp_path) == written
    assert [path.name for path in tmp_path.iterdir()] == ["statistics.safetensors"]


def test_the_views_of_a_file_are_its_numbers() -> None:
    statistics = made(1)
    assert statistics.layers == (1,)
    assert (statistics.experts, statistics.top_k) == (4, 2)
    assert np.array_equal(statistics.count(1), statistics.arrays["layer.1.tokens"])
    sums = exact.value(statistics.arrays["layer.1.sums"])
    for number, name in enumerate(FIELDS):
        assert np.array_equal(statistics.sum(1, name), sums[number])
    assert np.allclose(
        statistics.sample_norms(1), statistics.arrays["layer.1.samples"] / 2**32, rtol=1e-15
    )
    squares, tokens = statistics.importance()["layers.1.experts.up"]
    assert squares.shape == (EXPERTS, 6)
    assert tokens.shape == (EXPERTS,)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param((made(1), made(2), made(3)), id="same categories and samples"),
        pytest.param(
            (made(1, ("code",), "ab"), made(2, ("prose",), "cd"), made(3, ("code", "math"), "bc")),
            id="others",
        ),
        pytest.param(
            (made(1), made(2, source="/another/place"), made(3, revision="main")), id="places"
        ),
    ],
)
def test_merging_is_associative_and_commutative_to_the_byte(
    parts: tuple[Statistics, Statistics, Statistics], tmp_path: Path
) -> None:
    a, b, c = parts
    whole = as_bytes(merge(merge(a, b), c), tmp_path)
    assert as_bytes(merge(a, merge(b, c)), tmp_path) == whole
    assert as_bytes(merge(c, merge(b, a)), tmp_path) == whole
    assert as_bytes(merge(merge(c, a), b), tmp_path) == whole


def test_a_merge_holds_what_its_parts_hold() -> None:
    a, b = made(1, ("code",), "ab"), made(2, ("math", "prose"), "bc")
    both = merge(a, b)
    assert both.categories == ("code", "math", "prose")
    assert both.skipped == a.skipped + b.skipped
    assert both.tokens == {**a.tokens, **b.tokens}
    assert len(both.corpora) == 2
    assert np.array_equal(both.count(1)[0], a.count(1)[0])
    assert np.array_equal(both.count(1)[1:], b.count(1))
    assert np.array_equal(both.sum(1, "gate_norm")[1:], b.sum(1, "gate_norm"))
    assert both.largest(1)[0].tolist() == a.largest(1)[0].tolist()
    name = "layers.1.experts.up"
    assert both.importance()[name][0] == pytest.approx(
        a.importance()[name][0] + b.importance()[name][0], rel=1e-15
    )
    for sample, norms in zip(both.samples, both.sample_norms(1), strict=True):
        parts = [
            part.sample_norms(1)[row]
            for part in (a, b)
            for row, other in enumerate(part.samples)
            if (other["sha256"], other["category"]) == (sample["sha256"], sample["category"])
        ]
        assert norms == pytest.approx(sum(parts), rel=1e-15)


def test_one_text_in_two_categories_stays_two_samples() -> None:
    a, b = made(1, ("code",), "a"), made(2, ("prose",), "a")
    both = merge(a, b)
    assert [sample["category"] for sample in both.samples] == ["code", "prose"]
    assert both.sample_norms(1).tolist() == [
        *a.sample_norms(1).tolist(),
        *b.sample_norms(1).tolist(),
    ]


def test_removal_orders_are_left_out_of_a_merge() -> None:
    a = made(1)
    a = replace(a, arrays={**a.arrays, "layer.1.rerouted.pooled.keep": np.ones((5, 4), np.bool_)})
    assert not any(".rerouted." in name for name in merge(a, made(2)).arrays)
    assert not any(".rerouted." in name for name in merge(made(2), a).arrays)


def test_statistics_of_another_model_are_refused() -> None:
    with pytest.raises(StatisticsError, match=r"cannot merge .*a/model and b/model"):
        merge(made(1), made(2, source="b/model", identity="5678"))


def test_a_missing_file_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match="does not exist: make it with") as caught:
        load(tmp_path / "none")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 4, 8, 100, -1])
def test_a_cut_file_is_one_line_that_names_it(size: int, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(as_bytes(made(1), tmp_path)[:size])
    with pytest.raises(StatisticsError, match="cut is no statistics file") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_other_files_and_folders_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.ones(3)}, tmp_path / "model.safetensors")
    for path in (tmp_path / "model.safetensors", tmp_path):
        with pytest.raises(StatisticsError, match="no statistics file"):
            load(path)


def test_a_file_of_another_version_says_so(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({}, tmp_path / "old", metadata={"secateur": '{"version": 0}'})
    with pytest.raises(StatisticsError, match="version 0, this secateur reads 1: calibrate again"):
        load(tmp_path / "old")


@pytest.mark.parametrize("lost", ["layer.1.tokens", "layer.1.sums", "layer.1.samples"])
def test_a_file_without_one_of_its_arrays_is_refused(lost: str, tmp_path: Path) -> None:
    statistics = made(1)
    arrays = {name: array for name, array in statistics.arrays.items() if name != lost}
    save(replace(statistics, arrays=arrays), tmp_path / "s")
    with pytest.raises(StatisticsError, match=lost):
        load(tmp_path / "s")


def test_an_array_of_another_shape_is_refused(tmp_path: Path) -> None:
    statistics = made(1)
    arrays = {**statistics.arrays, "layer.1.tokens": np.ones((2, 3), np.int64)}
    save(replace(statistics, arrays=arrays), tmp_path / "s")
    with pytest.raises(StatisticsError, match=r"layer\.1\.tokens.*\[2, 3\], expected \[2, 4\]"):
        load(tmp_path / "s")
