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
from secateur.statistics.file import load, save
from secateur.statistics.merge import merge
from secateur.statistics.statistics import Statistics
from secateur.statistics.sums import BUILT_IN, Kind

MODEL = {"source": "a/model", "identity": "1234", "experts": 4, "top_k": 2, "layers": 2}
EXPERTS = 4
SUMS: Mapping[str, Kind] = {**BUILT_IN, "sample_norms": "per_sample"}


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
            "layer.1.sample_norms": random.integers(0, 2**40, (len(samples), EXPERTS)),
            "layer.1.tokens": random.integers(0, 99, shape),
            **{
                f"layer.1.{name}": exact.limbs(random.random(shape) * 1e3)
                for name, kind in BUILT_IN.items()
                if kind == "sum"
            },
        },
        sums=SUMS,
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
    stored = statistics.arrays
    assert np.array_equal(statistics.array(1, "gate"), exact.value(stored["layer.1.gate"]))
    assert np.array_equal(statistics.array(1, "largest"), stored["layer.1.largest"])
    norms = statistics.array(1, "sample_norms")
    assert np.allclose(norms, stored["layer.1.sample_norms"] / 2**32, rtol=1e-15)
    assert statistics.has("gate") and not statistics.has("rerouted.pooled.scores")
    squares, tokens = statistics.importance()["layers.1.experts.up"]
    assert squares.shape == (EXPERTS, 6)
    assert tokens.shape == (EXPERTS,)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(
            (made(1, shas="ab"), made(2, shas="cd"), made(3, shas="ef")), id="same categories"
        ),
        pytest.param(
            (made(1, ("code",), "ab"), made(2, ("prose",), "cd"), made(3, ("code", "math"), "ef")),
            id="others",
        ),
        pytest.param(
            (
                made(1, shas="a"),
                made(2, shas="b", source="/another/place"),
                made(3, shas="c", revision="main"),
            ),
            id="places",
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
    a, b = made(1, ("code",), "ab"), made(2, ("math", "prose"), "cd")
    both = merge(a, b)
    assert both.categories == ("code", "math", "prose")
    assert both.skipped == a.skipped + b.skipped
    assert both.tokens == {**a.tokens, **b.tokens}
    assert len(both.corpora) == 2
    assert np.array_equal(both.count(1)[0], a.count(1)[0])
    assert np.array_equal(both.count(1)[1:], b.count(1))
    assert np.array_equal(both.array(1, "gate_norm")[1:], b.array(1, "gate_norm"))
    assert both.array(1, "largest")[0].tolist() == a.array(1, "largest")[0].tolist()
    name = "layers.1.experts.up"
    assert both.importance()[name][0] == pytest.approx(
        a.importance()[name][0] + b.importance()[name][0], rel=1e-15
    )
    for sample, norms in zip(both.samples, both.array(1, "sample_norms"), strict=True):
        parts = [
            part.array(1, "sample_norms")[row]
            for part in (a, b)
            for row, other in enumerate(part.samples)
            if (other["sha256"], other["category"]) == (sample["sha256"], sample["category"])
        ]
        assert norms == pytest.approx(sum(parts), rel=1e-15)


def test_one_text_in_two_categories_stays_two_samples() -> None:
    a, b = made(1, ("code",), "a"), made(2, ("prose",), "a")
    both = merge(a, b)
    assert [sample["category"] for sample in both.samples] == ["code", "prose"]
    assert both.array(1, "sample_norms").tolist() == [
        *a.array(1, "sample_norms").tolist(),
        *b.array(1, "sample_norms").tolist(),
    ]


def test_removal_orders_are_left_out_of_a_merge() -> None:
    a = made(1)
    a = replace(a, arrays={**a.arrays, "layer.1.rerouted.pooled.scores": np.ones(4)})
    assert not any(".rerouted." in name for name in merge(a, made(2, shas="def")).arrays)
    assert not any(".rerouted." in name for name in merge(made(2, shas="def"), a).arrays)


def test_statistics_of_another_model_are_refused() -> None:
    with pytest.raises(StatisticsError, match=r"cannot merge .*a/model and b/model"):
        merge(made(1), made(2, source="b/model", identity="5678"))


def test_the_same_statistics_twice_are_refused() -> None:
    with pytest.raises(StatisticsError, match=r"both hold the corpus m \(corpus1\): .*twice"):
        merge(made(1), made(1))


def test_the_same_document_in_two_corpora_is_refused_by_name() -> None:
    with pytest.raises(StatisticsError, match=r"1 of 3 documents are in both.*cccccccccccc \(file"):
        merge(made(1, ("code",), "abc"), made(2, ("code",), "cde"))


def shard(seed: int, part: int, parts: int, shas: str = "abc") -> Statistics:
    """A part of one corpus."""
    whole = made(seed, shas=shas)
    one = ({"sha256": "whole", "mix": "m"},)
    return replace(whole, corpora=one, shards=(("whole", part, parts),))


def test_parts_of_a_corpus_may_share_documents_and_become_the_whole() -> None:
    first, second, third = shard(1, 1, 3), shard(2, 2, 3, "bcd"), shard(3, 3, 3, "d")
    two = merge(third, first)
    assert two.shards == (("whole", 1, 3), ("whole", 3, 3))
    whole = merge(two, second)
    assert whole.shards == ()
    assert whole.corpora == ({"sha256": "whole", "mix": "m"},)
    with pytest.raises(StatisticsError, match="both hold part 1 of 3 of the corpus m"):
        merge(two, first)
    with pytest.raises(StatisticsError, match="cut into 2 and 3 parts, which overlap"):
        merge(first, shard(4, 2, 2))
    with pytest.raises(StatisticsError, match="both hold the corpus m"):
        merge(whole, first)


def test_a_sum_that_only_one_has_is_left_out() -> None:
    a, b = made(1, shas="a"), made(2, shas="b")
    less = {name: array for name, array in b.arrays.items() if "sample_norms" not in name}
    both = merge(a, replace(b, arrays=less, sums=BUILT_IN))
    assert set(both.sums) == set(BUILT_IN)
    assert not both.has("sample_norms")


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
    with pytest.raises(StatisticsError, match=r"version 0, .* reads version 3.*: calibrate again"):
        load(tmp_path / "old")


@pytest.mark.parametrize("lost", ["layer.1.gate", "layer.1.largest", "layer.1.sample_norms"])
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
