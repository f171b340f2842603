"""The token sample: the same whatever the shards, merged, and solved again to the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from pretend_devices import FIRST, SECOND, PretendDevices
from test_calibrate import corpus, parts_of
from tiny_line import Line, Run

from secateur.api.requests import Solving
from secateur.api.statistics import merge as merge_api
from secateur.calibration.layer_pass import calibrate
from secateur.calibration.shards import Shard, read_shard
from secateur.calibration.token_sample import Sampling, draw
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.corpus.load import load_corpus, load_tokenizer
from secateur.corpus.rows import Corpus, make_corpus
from secateur.errors import CorpusError, RequestError, StatisticsError
from secateur.forward.backends.base import Backend
from secateur.forward.backends.choose import share_layers
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.backends.grouped_products import GroupedProducts, multiply_in_loop
from secateur.forward.batches import ON_CPU, ON_DEVICE, make_micro_batches
from secateur.statistics.file import load, save
from secateur.statistics.sample_file import SampleFile, sample_path
from secateur.statistics.token_sample import document_key, hash_places

TINY = Callable[[str], Checkpoint]
TOKENS = 60


BACKEND = CpuBackend(2, replace(ON_CPU, least=256, group=512))
"""Groups of 512 tokens, so that a short corpus has several."""


def long_corpus() -> Corpus:
    """Documents of 64 tokens in two categories, one of them twice."""
    names = [("code" if n % 3 else "prose", f"{n % 27:02d}", 64) for n in range(28)]
    return corpus(names)


def run_part(
    checkpoint: Checkpoint,
    whole: Corpus,
    path: Path,
    shard: Shard | None = None,
    backend: Backend = BACKEND,
) -> Path:
    """Calibrate (a part of) a corpus and keep the sample."""
    sampling = Sampling(TOKENS, keep=sample_path(path))
    options = {} if shard is None else {"shard": shard}
    save(calibrate(checkpoint, whole, sampling=sampling, backend=backend, **options), path)
    return path


@pytest.mark.parametrize("form", ["gemma4", "deepseek_v3"])
def test_merged_shards_are_one_pass_to_the_byte(form: str, tiny: TINY, tmp_path: Path) -> None:
    model, whole = tiny(form), long_corpus()
    once = run_part(model, whole, tmp_path / "once")
    for count in (2, 3):
        shards = [
            run_part(model, whole, tmp_path / f"{part}of{count}", Shard(part, count))
            for part in range(1, count + 1)
        ]
        assert not load(shards[0]).has("rerouted.pooled.scores")
        for order in permutations(shards):
            merge_api(order, tmp_path / "merged", model=model, force=True)
            assert (tmp_path / "merged").read_bytes() == once.read_bytes()
            merged = sample_path(tmp_path / "merged")
            assert merged.read_bytes() == sample_path(once).read_bytes()


def test_merging_in_steps_gives_the_same_bytes(tiny: TINY, tmp_path: Path) -> None:
    model, whole = tiny("gemma4"), long_corpus()
    once = run_part(model, whole, tmp_path / "once")
    a, b, c = (run_part(model, whole, tmp_path / f"{n}", Shard(n, 3)) for n in (1, 2, 3))
    said: list[str] = []
    merge_api([c, a], tmp_path / "two", on_message=said.append)
    assert "parts of a corpus are missing: 2/3" in said[0]
    assert "'rerouted' is not in the merged file (merge with --model MODEL" in said[1]
    merge_api([b, tmp_path / "two"], tmp_path / "all", model=model, on_message=said.append)
    assert len(said) == 2
    assert (tmp_path / "all").read_bytes() == once.read_bytes()


def test_what_devices_made_is_solved_where_a_pass_on_one_solves_it(
    tiny: TINY, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `auto` only what the CPU made is solved on the CPU; here two pretended devices share the
    layers."""
    device = replace(
        share_layers([FIRST, SECOND]),
        batch_size=replace(ON_DEVICE, most=256, least=256),
        _products=cast(GroupedProducts, multiply_in_loop),
    )
    model, asked = tiny("gemma4"), []

    def choose(word: str, **_: Any) -> Backend:
        asked.append(word)
        return CpuBackend(1) if word == "cpu" else device

    monkeypatch.setattr("secateur.forward.backends.choose.choose_backend", choose)
    with PretendDevices():
        once = run_part(model, long_corpus(), tmp_path / "once", backend=device)
        parts = [
            run_part(model, long_corpus(), tmp_path / f"{n}", Shard(n, 2), backend=device)
            for n in (1, 2)
        ]
        merge_api(parts, tmp_path / "merged", model=model)
    assert (tmp_path / "merged").read_bytes() == once.read_bytes()
    merge_api(parts, tmp_path / "cpu", model=model, solving=Solving(device="cpu"))
    assert asked == ["auto", "cpu"]
    monkeypatch.undo()
    with pytest.raises(RequestError, match="sees .* CUDA devices here"):
        merge_api(parts, tmp_path / "gpu", model=model, solving=Solving(device="cuda:99"))
    assert not (tmp_path / "gpu").exists()
    with pytest.raises(RequestError, match="are of solving 'rerouted': name the model"):
        merge_api(parts, tmp_path / "gpu", solving=Solving(workers=1))


@pytest.mark.slow
def test_shards_of_gemmule_are_one_pass_to_the_byte(tmp_path: Path) -> None:
    model = open_checkpoint("gemmule")
    mix = load_corpus("gemmule", load_tokenizer(model.path))
    rows = mix.rows[:: max(1, len(mix.rows) // 48)]
    some = make_corpus(rows, mix.samples, {"mix": "some of gemmule's"})
    once = run_part(model, some, tmp_path / "once")
    for count in (2, 3):
        parts = [Shard(part, count) for part in range(count, 0, -1)]
        paths = [run_part(model, some, tmp_path / f"{s.part}of{count}", s) for s in parts]
        merge_api(paths, tmp_path / f"merged{count}", model=model)
        assert (tmp_path / f"merged{count}").read_bytes() == once.read_bytes()


def test_corpora_divided_by_document_give_the_same_sample(tiny: TINY, tmp_path: Path) -> None:
    """Their sums differ by rounding, for documents are put together in other micro-batches."""
    model = tiny("gemma4")
    whole = corpus([("code" if n % 2 else "prose", f"{n:02d}", 30) for n in range(40)])
    once = run_part(model, whole, tmp_path / "once")
    parts = [
        run_part(model, part, tmp_path / f"part{number}")
        for number, part in enumerate(parts_of(whole, [7, 23]))
    ]
    merge_api(parts, tmp_path / "merged", model=model)
    one, other = (SampleFile(sample_path(p)) for p in (once, tmp_path / "merged"))
    for name, column in one.keys._asdict().items():
        assert np.array_equal(column, getattr(other.keys, name)), name
    for layer in one.description.layers:
        assert np.array_equal(one.layer(layer).experts, other.layer(layer).experts)
        scores = [
            load(p).array(layer, "rerouted.pooled.scores") for p in (once, tmp_path / "merged")
        ]
        assert np.array_equal(*scores)


def test_the_sample_is_drawn_by_content_and_evenly() -> None:
    documents = [("code" if n % 2 else "prose", f"{n:02d}", 30) for n in range(20)]
    one, other = corpus(documents), corpus(list(reversed(documents)))
    drawn = [draw(make_micro_batches(c.rows, 32), c, 50, 0).keys for c in (one, other)]
    assert np.bincount(drawn[0].category).tolist() == [25, 25]
    assert np.array_equal(drawn[0].hash, drawn[1].hash)
    again = draw(make_micro_batches(one.rows, 32), one, 50, 1).keys
    assert not np.array_equal(drawn[0].hash, again.hash)
    few = draw(make_micro_batches(one.rows, 32), one, 20, 0).keys
    assert set(few.hash) < set(drawn[0].hash)
    everything = draw(make_micro_batches(one.rows, 32), one, 10**6, 0).keys
    assert len(everything.hash) == one.tokens


def test_copies_of_a_document_are_other_tokens() -> None:
    places = np.arange(1000)
    keys = [document_key("a" * 64, copy, 0) for copy in (0, 1)]
    hashes = np.concatenate([hash_places(key, places) for key in keys])
    assert len(set(hashes.tolist())) == 2000
    assert hashes.astype(np.float64).mean() / 2**64 == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("text", "message"),
    [("2", "such as 2/3"), ("0/3", "from 1 to 3"), ("4/3", "from 1 to 3"), ("a/b", "such as 2/3")],
)
def test_a_shard_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read_shard(text)


def test_more_parts_than_groups_are_refused(tiny: TINY) -> None:
    with pytest.raises(CorpusError, match="too short for 9 parts.*: it makes 1$"):
        calibrate(tiny("gemma4"), corpus(), sampling=Sampling(0), shard=Shard(1, 9))


def test_a_sample_of_other_statistics_is_refused(tiny: TINY, tmp_path: Path) -> None:
    model = tiny("gemma4")
    one = run_part(model, corpus([("code", "a", 9)]), tmp_path / "one")
    two = run_part(model, corpus([("code", "b", 8)]), tmp_path / "two")
    sample_path(two).replace(sample_path(one))
    with pytest.raises(StatisticsError, match=r"one.sample is not the token sample of .*one"):
        merge_api([one, two], tmp_path / "merged")


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_damaged_sample_is_one_line(size: int, tiny: TINY, tmp_path: Path) -> None:
    path = run_part(tiny("gemma4"), corpus(), tmp_path / "one")
    sample = sample_path(path)
    sample.write_bytes(sample.read_bytes()[:size])
    with pytest.raises(StatisticsError, match=r"one\.sample is no token sample") as caught:
        merge_api([path], tmp_path / "merged", model=tiny("gemma4"))
    assert "\n" not in str(caught.value)


def test_a_sample_with_tokens_that_became_nan_merges(broken: Checkpoint, tmp_path: Path) -> None:
    """A token that a layer left out is no other token's place in the merged sample."""
    halves = [corpus([("code", name, size)]) for name, size in (("a", 30), ("b", 31))]
    paths = []
    for number, half in enumerate(halves):
        paths.append(tmp_path / str(number))
        sampling = Sampling(20, keep=sample_path(paths[-1]))
        save(calibrate(broken, half, sampling=sampling, skip_bad=True), paths[-1])
    merge_api(paths, tmp_path / "merged", model=broken)
    sample = SampleFile(sample_path(tmp_path / "merged"))
    assert len(sample.keys.hash) == 20
    assert (sample.layer(0).experts >= 0).all()
    left_out = sample.layer(1).experts[:, 0] < 0
    assert 0 < left_out.sum() < 20
    assert load(tmp_path / "merged").has("rerouted.pooled.scores")


def test_merge_of_the_command_line(run: Run, line: Line, tmp_path: Path) -> None:
    parts = []
    for number in (1, 2):
        rows = tmp_path / f"{number}.jsonl"
        ids = ",".join(str(4 + (number * 7 + n) % 90) for n in range(40))
        rows.write_text(f'{{"input_ids": [{ids}], "category": "code"}}\n')
        parts.append(tmp_path / f"{number}.st")
        made = run("calibrate", line.model, "--keep-sample", rows=rows, out=parts[-1], workers=1)
        assert made.code == 0, made.err
        assert "token sample: " in made.err
    whole = tmp_path / "whole.st"
    bare = run("merge", *parts, out=whole)
    assert "'rerouted' is not in the merged file (merge with --model MODEL" in bare.err
    refused = run("plan", line.model, stats=whole, drop=0.25)
    assert (refused.code, refused.out) == (2, "")
    assert "merge FILES --model MODEL" in refused.err
    full = run("merge", *parts, "--force", model=line.model, out=whole)
    assert (full.code, full.said) == (0, [])
    assert run("plan", line.model, stats=whole, drop=0.25).code == 0
    twice = run("merge", parts[0], parts[0], "--force", out=whole)
    assert twice.code == 2
    assert "count twice" in twice.err
    sample_path(parts[0]).unlink()
    lacking = run("merge", *parts, "--force", model=line.model, out=whole)
    assert lacking.code == 2
    assert "1.st has no token sample next to it" in lacking.err
