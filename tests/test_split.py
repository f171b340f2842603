"""A GGUF in several files is one model: to llama.cpp, and to measuring."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_line import Line, Run

import secateur
from secateur import Formats, Pruning
from secateur.checkpoint.hub import gemmule_folder
from secateur.corpus.tokenizer import load_tokenizer
from secateur.errors import FormatError
from secateur.formats.gguf.container import STRING, TensorInfo, Value
from secateur.formats.gguf.provenance import PLAN_SHA256
from secateur.formats.gguf.reader import read_gguf
from secateur.formats.gguf.split import joined, part_name, parts, read_every_part
from secateur.formats.gguf.writer import TensorChunk, write_gguf
from secateur.outputs.registry import artefacts_of
from secateur.serving.llama_server import llama_server


def make(model: Path | str, experts: int, out: Path, limit: int | None) -> Path:
    """Plan and apply, as a user would; the output folder."""
    formats = Formats(to="gguf", types=("Q8_0",), split_max_size=limit)
    secateur.apply(secateur.plan(model, Pruning(experts=experts), formats), out)
    return out


@pytest.fixture(scope="module")
def split(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in parts: read only."""
    return make(line.model, 8, tmp_path_factory.mktemp("split") / "out", 30_000)


def test_a_split_model_measures_as_the_whole_one(
    line: Line, split: Path, tmp_path: Path, run: Run
) -> None:
    whole = make(line.model, 8, tmp_path / "whole", None)
    files = sorted(split.glob("*.gguf"))
    assert len(files) > 2
    assert artefacts_of(split) == files[:1]
    against = {"against": line.model, "answers": line.answers, "json": True}
    (expected,) = run("measure", whole, **against).json["artefacts"]
    for named in (split, files[0]):
        (found,) = run("measure", named, **against).json["artefacts"]
        assert found["name"] == files[0].name
        assert found["bytes"] == sum(path.stat().st_size for path in files)
        assert found["measurements"] == expected["measurements"]
    report = json.loads((split / "report.json").read_text())
    assert report["sizes"] == {"gguf-Q8_0": dict.fromkeys(("predicted", "written"), found["bytes"])}


def test_llama_cpp_says_the_same_of_parts_and_whole(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(gemmule_folder())
    asked = "<|turn>user\nWhat is 12 + 30?<turn|>\n<|turn>model\n<|channel>thought\n<channel|>"
    prompt = tokenizer(asked)["input_ids"]
    said = []
    for limit in (None, 4_000_000):
        out = make("gemmule", 32, tmp_path / str(limit), limit)
        with llama_server(min(out.glob("*.gguf")), context=128) as server:
            said.append([token.id for token in server.complete(prompt, 24)])
    assert len(list(out.glob("*.gguf"))) > 2
    assert said[0] == said[1]
    assert len(said[0]) > 4


def swapped(one: Path, other: Path) -> None:
    one.rename(one.with_name("aside"))
    other.rename(one)
    one.with_name("aside").rename(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda first, *rest: rest[1].unlink(), r"there is no .*-00003-of-.* into one folder"),
        (
            lambda first, *rest: first.rename(first.with_name("a.gguf")),
            r"a\.gguf is part 1 of \d, which must be in its name, as in NAME-00001-of-",
        ),
        (lambda first, *rest: swapped(rest[0], rest[1]), r"holds part 3, expected part 2 of"),
        (lambda first, *rest: swapped(first, rest[0]), r"is part 2 of \d, which must be in its"),
        (lambda first, *rest: rest[0].write_bytes(b"GGUF"), r"00002-of-.* the file is cut short"),
        (lambda first, *rest: first.unlink(), r"00002-of-.* there is no .*-00001-of-"),
    ],
)
def test_a_broken_set_of_parts_is_refused(
    change: Callable[..., object],
    message: str,
    line: Line,
    split: Path,
    tmp_path: Path,
) -> None:
    files = [Path(shutil.copy(path, tmp_path)) for path in sorted(split.glob("*.gguf"))]
    change(*files)
    with pytest.raises(FormatError, match=message):
        secateur.measure(tmp_path, line.model, secateur.Measuring(answers=line.answers))


def test_a_later_part_is_no_model(line: Line, split: Path, run: Run) -> None:
    second = sorted(split.glob("*.gguf"))[1]
    ran = run("measure", second, against=line.model, answers=line.answers)
    assert ran.code == 2
    assert len(ran.said) == 1
    assert f"is part 2 of {part_name(second.name).total}: name the first, " in ran.err


def saved(folder: Path, names: str, plan: str | None = None) -> list[Path]:
    """A file of one tensor a part, made by a plan, or by llama-gguf-split."""
    infos = [TensorInfo(name, "F32", (8,)) for name in names]
    keys = {} if plan is None else {PLAN_SHA256: Value(STRING, plan)}
    made = parts("m.gguf", {"general.architecture": Value(STRING, "x"), **keys}, infos, 32)
    folder.mkdir()
    for part in made:
        info = infos[part.first]
        data = np.full(32, part.first, np.uint8)
        write_gguf(folder / part.file, part.metadata, [info], [TensorChunk(info.name, data)])
    return [folder / part.file for part in made]


def test_parts_are_joined(tmp_path: Path) -> None:
    for plan in (None, "1"):
        whole = joined(read_every_part(saved(tmp_path / str(plan), "abc", plan)[0]))
        assert list(whole.tensors) == ["a", "b", "c"]
        assert [set(whole.data(name)) for name in "abc"] == [{0}, {1}, {2}]


def test_parts_of_different_files_are_told_apart(tmp_path: Path) -> None:
    def first_of(name: str, other: list[Path]) -> Path:
        """The first part of a file whose second is replaced by another's."""
        files = saved(tmp_path / name, "abc", "1" if "plan" in name else None)
        shutil.copy(other[1], files[1])
        return files[0]

    other = saved(tmp_path / "other", "abc", "2")
    with pytest.raises(FormatError, match=r"00002-of-00003.*has secateur\.plan_sha256 '2', but"):
        read_every_part(first_of("plan", other))
    longer = saved(tmp_path / "longer", "abcd")
    with pytest.raises(FormatError, match=r"has split\.(tensors\.)?count 4, but .* has 3: they"):
        read_every_part(first_of("longer one", longer))
    with pytest.raises(FormatError, match=r"00003.*: tensor 'c' is in another part already"):
        read_every_part(first_of("same tensor", saved(tmp_path / "turned", "acb")))
    files = saved(tmp_path / "lacking", "abc")
    write_gguf(files[1], read_gguf(files[1]).metadata, [], [])
    with pytest.raises(FormatError, match="its 3 parts hold 3 tensors, but they hold 2"):
        read_every_part(files[0])
