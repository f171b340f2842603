"""One byte that is not as it was, in a file that we read: it is found, or it says nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_line import Line, Run

from secateur import read_plan, verify
from secateur.api.job_file import read_job
from secateur.checkpoint.reader import SINGLE, open_checkpoint
from secateur.errors import InputError, RequestError
from secateur.outputs.apply import check_plan
from secateur.planning.checks import PlanSources
from secateur.planning.document import published
from secateur.planning.edits import edits_of
from secateur.release.manifest import read_manifest
from secateur.statistics import file as statistics_file
from secateur.statistics.gram_file import GramFile
from secateur.statistics.sample_file import SampleFile
from secateur.statistics.text_file import load_text, text_path


def flips(path: Path, every: int, end: int | None = None) -> Iterator[int]:
    """Change one byte after the other, and put it back: by one bit, which bit is drawn."""
    content = path.read_bytes()
    draw = np.random.default_rng(0)
    with path.open("r+b", buffering=0) as file:
        for place in range(0, len(content) if end is None else end, every):
            changed = content[place] ^ (1 << int(draw.integers(8)))
            file.seek(place)
            file.write(bytes([changed]))
            yield place
            file.seek(place)
            file.write(content[place : place + 1])


def missed(path: Path, read: Callable[[], object], every: int, end: int | None = None) -> list[int]:
    """The places of changed bytes that reading neither refuses nor reads as they were."""
    right = read()
    found = []
    for place in flips(path, every, end):
        try:
            if read() != right:
                found.append(place)
        except InputError as error:
            assert "\n" not in str(error)
    assert read() == right
    return found


EVERY = [pytest.param(1, marks=pytest.mark.slow), 11]
"""Every byte, or some of them."""


@pytest.mark.parametrize("every", EVERY)
def test_in_the_header_of_a_shard(every: int, line: Line, tmp_path: Path) -> None:
    """What still is a header (of tensors that the family and the config know) is another model."""
    model = Path(shutil.copytree(line.model, tmp_path / "model"))
    shard = model / SINGLE
    length = int.from_bytes(shard.read_bytes()[:8], "little")
    known = open_checkpoint(model)
    right = known.identity(), dict(known.specs)

    def read() -> object:
        found = open_checkpoint(model)
        if found.specs != right[1]:
            assert found.identity() != right[0]
        return None

    assert missed(shard, read, every, end=8 + length) == []


@pytest.mark.parametrize("every", [pytest.param(97, marks=pytest.mark.slow), 4999])
def test_in_statistics(every: int, line: Line, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"
    words = ["calibrate", line.model, "--rows", line.rows, "--keep-sample", "--gram", "own"]
    assert run(*words, out=out, workers=1).code == 0

    def statistics() -> object:
        found = statistics_file.load(out)
        return found.header(), {n: array.tobytes() for n, array in found.arrays.items()}

    def sample() -> object:
        found = SampleFile(tmp_path / "s.sample.safetensors")
        layers = [found.layer(number) for number in found.description.layers]
        return found.description, [a.tobytes() for one in (found.keys, *layers) for a in one]

    def grams() -> object:
        found = GramFile(tmp_path / "s.gram.safetensors")
        inputs = [found.input(name) for name in found.description.columns]
        return found.description, [(i.sums.tobytes(), i.tokens.tobytes()) for i in inputs]

    readers = {"s": statistics, "s.sample": sample, "s.gram": grams}
    for name, read in readers.items():
        path = tmp_path / f"{name}.safetensors"
        length = int.from_bytes(path.read_bytes()[:8], "little")
        assert missed(path, read, every) == [], name
        assert missed(path, read, every // 9, end=8 + length) == [], name


def test_in_the_hashes_of_a_text(made: Path, tmp_path: Path) -> None:
    kept = text_path(made / "evidence" / "statistics.safetensors")
    path = Path(shutil.copy(kept, tmp_path / kept.name))

    def read() -> object:
        found = load_text(path)
        about = found.corpora, found.documents, found.words, found.all_runs
        return about, found.runs.tobytes(), found.passages.tobytes()

    assert missed(path, read, 53) == []


@pytest.mark.parametrize("every", [pytest.param(13, marks=pytest.mark.slow), 499])
def test_in_a_plan(every: int, line: Line, run: Run, tmp_path: Path) -> None:
    """A plan may be edited by hand: what was changed is refused, or said where it is applied."""
    path = tmp_path / "plan.json"
    assert run("plan", line.model, experts=8, types="Q8_0", out=path).code == 0
    checkpoint = open_checkpoint(line.model)

    def read() -> object:
        plan = check_plan(read_plan(path), PlanSources(checkpoint)).plan
        said = [*edits_of(plan).sentences(), *(n for n in plan.notes if "after an edit" in n)]
        return right if said else published(plan)

    right: object = None
    right = read()
    assert missed(path, read, every) == []


@pytest.mark.parametrize("every", EVERY)
def test_in_a_manifest(every: int, made: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(made / "manifest.json", tmp_path / "manifest.json"))
    known = {key for key in read_manifest(tmp_path) if key != "manifest_sha256"}

    def read() -> object:  # without its hash, whose own name may have been changed
        found = read_manifest(tmp_path)
        return {key: found.get(key) for key in known}, len(found)

    assert missed(path, read, every) == []


@pytest.mark.slow
def test_in_any_file_of_an_output(made: Path, tmp_path: Path) -> None:
    """Job, plan, evidence, weights: `verify` names the file. What is beside them is named, too, and
    is no damage."""
    out = Path(shutil.copytree(made, tmp_path / "out"))
    for name in json.loads((out / "manifest.json").read_text())["files"]:
        size = (out / name).stat().st_size
        for _ in flips(out / name, max(1, size // 3)):
            damage = [entry for entry in verify(out) if entry.is_damage]
            assert [(entry.file, entry.kind) for entry in damage] == [(name, "changed")]
    for name in ("README.md", ".gitattributes", "notes/mine.txt"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
    found = verify(out)
    assert {entry.file for entry in found} == {"README.md", ".gitattributes", "notes/mine.txt"}
    assert not any(entry.is_damage for entry in found)


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 97])
def test_in_a_resolved_job_that_is_run(
    every: int, line: Line, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows its own hash. What is put into it by an option is no damage."""
    path = Path(shutil.copy(made / "job.yaml", tmp_path / "job.yaml"))
    monkeypatch.chdir(line.corpus.parent)

    def read() -> object:
        return replace(read_job(path), content=None)

    assert missed(path, read, every) == []
    assert read_job(path, ["pruning.experts=5"]).pruning.experts == 5
    path.write_text(path.read_text().replace("experts: 6", "experts: 5"))
    with pytest.raises(RequestError, match="was changed after secateur wrote it"):
        read_job(path)
    assert read_job(path, ["content=null"]).pruning.experts == 5


def test_in_a_job_that_an_output_keeps(made: Path, tmp_path: Path) -> None:
    """Its copy of the job is told from a changed one by the manifest."""
    out = Path(shutil.copytree(made, tmp_path / "out"))
    for _ in flips(out / "job.yaml", max(1, (out / "job.yaml").stat().st_size // 5)):
        assert [entry.file for entry in verify(out) if entry.is_damage] == ["job.yaml"]
