"""Job files: read strictly, run, resolved in every output, and the same bytes again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from tiny_line import Line, Run, files_of

import secateur
from secateur import Job
from secateur.api.job_content import input_files, resolve_device
from secateur.api.job_file import read_job
from secateur.api.job_text import Paths, job_text, save_job
from secateur.api.requests import (
    Calibration,
    Formats,
    Measuring,
    Pruning,
    ShrinkRequest,
    resolve_recipes,
)
from secateur.checkpoint.reader import open_checkpoint
from secateur.corpus.mix import list_mixes, parse_mix, read_mix
from secateur.corpus.mix_settings import mix_settings
from secateur.errors import InputError, RequestError
from secateur.system.typed_yaml import Reader, read_dataclass
from secateur.system.yaml_nodes import read_nodes, set_value

TEXT = """\
model: models/tiny
pruning:
  experts: 6
  criterion: frequency
formats:
  types: [Q8_0]
calibration:
  corpus: texts/mix.yaml
  reroute_tokens: 0
measuring: false
out: out
running:
  workers: 1
"""
MIX = """\
seed: 7
sequence_length: 64
tokens: 400
sources:
  - {name: talk, path: talk.jsonl, fields: {messages: messages}, weight: 1}
"""


def lasting(folder: Path) -> dict[str, bytes]:
    """The files of an output without those that say how long it took."""
    return {
        name: content
        for name, content in files_of(folder).items()
        if name not in ("run.json", "report.md")
    }


@pytest.fixture
def project(line: Line, tmp_path: Path) -> Path:
    """A folder with a job, and in folders below it what the job names."""
    folder = tmp_path / "project"
    for name in ("models", "texts"):
        (folder / name).mkdir(parents=True)
    shutil.copytree(line.model, folder / "models" / "tiny")
    shutil.copy(line.corpus, folder / "texts" / "talk.jsonl")
    (folder / "texts" / "mix.yaml").write_text(MIX)
    (folder / "job.yaml").write_text(TEXT)
    return folder


def test_the_resolved_job_gives_the_same_bytes_elsewhere(
    run: Run, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run from another folder; then what it resolved to, from the inputs' folder, elsewhere."""
    monkeypatch.chdir(tmp_path)
    ran = run("run", "project/job.yaml")
    assert ran.code == 0, ran.err
    first = project / "out"
    job = yaml.safe_load((first / "job.yaml").read_text())
    assert "job.yaml" in json.loads((first / "manifest.json").read_text())["files"]
    assert str(tmp_path) not in (first / "job.yaml").read_text()
    assert job["formats"]["to"] == ["safetensors", "gguf"]
    assert job["calibration"]["corpus"]["sources"][0]["tokens"] == 400
    assert (job["calibration"]["seed"], job["calibration"]["sequence_length"]) == (7, 64)
    assert {"job", "model", "calibration.rows", "calibration.corpus.talk"} == set(job["content"])
    monkeypatch.chdir(project)
    again = run("run", first / "job.yaml", out=tmp_path / "deep" / "again")
    assert again.code == 0, again.err
    assert lasting(tmp_path / "deep" / "again") == lasting(first)
    talk = project / "texts" / "talk.jsonl"
    talk.write_text("".join(talk.read_text().splitlines(keepends=True)[:-1]))
    ran = run("run", first / "job.yaml", out=tmp_path / "third")
    assert ran.code == 2
    assert "calibration.corpus.talk: talk.jsonl is not what the job was made with" in ran.said[-1]
    assert not (tmp_path / "third").exists()


def test_a_resolved_job_says_what_it_does_not_find(
    run: Run, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made with absolute paths, of which an output keeps only the names."""
    monkeypatch.chdir(tmp_path)
    ran = run("run", made / "job.yaml", out=tmp_path / "out")
    assert ran.code == 2
    assert ": there is no answers.jsonl in" in ran.said[-1]
    assert "or the current folder (name it with --set KEY=PATH)" in ran.said[-1]


@pytest.mark.slow
def test_options_and_a_job_are_the_same(
    run: Run, line: Line, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the default criterion, measured, from absolute paths, options and a written job."""
    monkeypatch.chdir(line.model.parent)
    ran = run("run", made / "job.yaml", out=tmp_path / "out")
    assert ran.code == 0, ran.err
    assert lasting(tmp_path / "out") == lasting(made)
    options = {"experts": 6, "types": "Q8_0,Q4_K_M", "corpus": line.corpus, "answers": line.answers}
    job = tmp_path / "job.yaml"
    assert run("shrink", line.model, **options, out="o", write_job=job).code == 0
    assert run("run", job, out=tmp_path / "o").code == 0
    assert lasting(tmp_path / "o") == lasting(made)


def test_a_recipe_file_may_stand_among_types(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In options, Python and job files, with commas: its path counts from the job, and its hash."""
    (project / "mine.yaml").write_text("name: mine\nto: gguf\nbase: Q4_K_M\n")
    monkeypatch.chdir(project / "texts")
    words = "Q8_0, ../mine.yaml"
    expected = [Formats(types=words), Formats(types=["Q8_0", "../mine.yaml"])]
    assert expected[0] == expected[1]
    assert [one.name for one in resolve_recipes(expected[0])] == ["Q8_0", "mine"]
    request = ShrinkRequest(formats=expected[0], measuring=None)
    read = input_files(request, open_checkpoint(project / "models" / "tiny"))
    assert read == {"formats.types.1": Path("../mine.yaml")}
    (project / "job.yaml").write_text("model: models/tiny\nformats: {types: 'Q8_0,mine.yaml'}\n")
    job = read_job(project / "job.yaml")
    assert job.formats.types == ("Q8_0", str(project / "mine.yaml"))
    assert read_job(project / "job.yaml", [f"formats.types={words}"]).formats == expected[0]
    ran = run("shrink", "gemmule", types=words, out="o", write_job=project / "b.yaml")
    assert ran.code == 0, ran.err
    assert yaml.safe_load((project / "b.yaml").read_text())["formats"]["types"] == [
        "Q8_0", "mine.yaml",
    ]  # fmt: skip
    fits = run("fit", "gemmule", memory="1GB", types=f"{words},mlx-mixed-4-8", json=True)
    assert {row["type"] for row in fits.json["rows"]} == {"Q8_0", "mine"}
    assert any("it is for mlx" in note for note in fits.json["notes"])


def test_a_written_job_is_read_as_it_was(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    job = Job(
        model="models/tiny",
        pruning=Pruning(
            drop=0.25, criterion="reap", routing_weight="reference", protect={1: (0, 3)}
        ),
        formats=Formats(types=("Q4_K_M", "Q8_0"), layer_importance=(2.0, 1.0), split_max_size="5G"),
        calibration=Calibration("texts/mix.yaml", observe=("sample_norms",)),
        measuring=Measuring(max_kl=0.5, gates=("kl_p99<=2",), temperature=0.0),
        out="out",
    )
    (project / "jobs").mkdir()
    save_job(job, project / "jobs" / "a.yaml")
    read = read_job(project / "jobs" / "a.yaml")
    corpus = read.calibration.corpus
    assert isinstance(corpus, str)
    assert Path(corpus).samefile("texts/mix.yaml")
    assert Path(read.model).samefile("models/tiny")
    assert (Path(read.out or "").resolve()) == (project / "out").resolve()
    calibration = replace(read.calibration, corpus="texts/mix.yaml")
    assert replace(read, calibration=calibration, model=job.model, out="out", written={}) == job
    none = replace(job, measuring=None)
    text = job_text(none, Paths())
    assert yaml.safe_load(text)["measuring"] is False
    with pytest.raises(InputError, match="exists already"):
        save_job(job, project / "jobs" / "a.yaml")


WRONG: Mapping[str, tuple[str, str]] = {
    "unknown section": (
        "pruning: {experts: 6}\nformts: {}\n",
        "2: there is no key 'formts': did you mean 'formats'?",
    ),
    "unknown key": (
        "pruning:\n  experts: 6\n  critrion: reap\n",
        "3: pruning has no key 'critrion': did you mean 'criterion'",
    ),
    "word for a number": (
        "pruning:\n  experts: many\n",
        "2: pruning.experts is 'many', expected a whole number",
    ),
    "yes for a number": (
        "pruning:\n  experts: yes\n",
        "2: pruning.experts is 'yes', expected a whole number",
    ),
    "number for a word": (
        "revision: 1234567\npruning: {}\n",
        "1: revision is '1234567', expected text (in quotes",
    ),
    "no choice": (
        "calibration:\n  on_nan: go\npruning: {}\n",
        "2: calibration.on_nan is 'go', expected one of stop, skip",
    ),
    "both": ("pruning:\n  drop: 0.25\n  experts: 6\n", "3: pruning: experts and drop each say"),
    "too small": (
        "pruning: {experts: 6}\ncalibration:\n  seed: -1\n",
        "3: calibration: seed is -1, expected 0 or more",
    ),
    "percent": ("pruning:\n  drop: 25\n", "2: pruning: drop is 25, expected a share"),
    "unknown criterion": ("pruning:\n  criterion: best\n", "2: pruning: unknown criterion 'best'"),
    "unknown type": (
        "formats:\n  types:\n    - Q9_K\n",
        "3: formats.types: unknown file type or recipe 'Q9_K'",
    ),
    "no recipe": ("formats: {types: [my.yaml]}\n", "1: there is no my.yaml in"),
    "unknown sum": ("calibration:\n  observe: [nothing]\n", "2: calibration.observe: "),
    "no file": ("measuring:\n  prompts: none.jsonl\n", "2: there is no none.jsonl in"),
    "text and rows": (
        "calibration:\n  corpus: gemmule\n  rows: rows.jsonl\n",
        "3: calibration: either corpus or rows",
    ),
    "gate": ("measuring:\n  gates: [kl_men<=1]\n", "2: measuring: "),
    "nothing under it": (
        "pruning:\n  # experts: 6\nmeasuring: {}\n",
        "1: pruning has no keys: give some",
    ),
    "true": ("measuring: true\n", "1: measuring has no keys"),
    "list": ("- model\n", "1: the file has no keys"),
    "twice": ("model: a\nmodel: b\n", "2: 'model' is given twice"),
    "not YAML": ("model: [\n", "line 2"),
    "nothing": ("", "is empty, expected a job in YAML"),
    "a mix": (
        "calibration:\n  corpus:\n    sources: [{name: a, pth: x}]\n",
        "3: corpus: sources[0]: unknown key 'pth'",
    ),
    "a mix's file": (
        "calibration:\n  corpus:\n    sources: [{name: a, path: x.jsonl}]\n",
        "3: calibration.corpus: source 'a': there is no",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_every_mistake_has_its_line(name: str, tmp_path: Path) -> None:
    text, expected = WRONG[name]
    path = tmp_path / "job.yaml"
    (tmp_path / "rows.jsonl").touch()
    if name not in ("list", "twice", "not YAML", "nothing"):
        text += "model: gemmule\n" + ("" if "pruning:" in text else "pruning: {experts: 24}\n")
    path.write_text(text)
    with pytest.raises(RequestError) as refused:
        read_job(path)
    assert "\n" not in str(refused.value)
    assert expected in str(refused.value)
    assert str(refused.value).startswith(str(path))


def test_a_model_is_needed(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("pruning: {experts: 6}\n")
    with pytest.raises(RequestError, match=r"job\.yaml:1: model is missing"):
        read_job(tmp_path / "job.yaml")


def test_values_are_set_by_option(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same reader: `calibration` is made where it is not there, lists are YAML."""
    monkeypatch.chdir(project / "texts")
    (project / "job.yaml").write_text("model: models/tiny\npruning: {experts: 6}\n")
    job = read_job(
        project / "job.yaml",
        [
            "pruning.experts=7", "formats.types=[Q8_0, Q4_K_M]", "calibration.corpus=mix.yaml",
            "measuring.max_kl=1e-2", "pruning.routing_weight=true", "out=made", "revision=",
        ],
    )  # fmt: skip
    assert job.pruning.experts == 7
    assert job.pruning.routing_weight == "true"
    assert job.formats.types == ("Q8_0", "Q4_K_M")
    assert job.calibration.corpus == "mix.yaml"
    assert job.measuring is not None
    assert job.measuring.max_kl == 0.01
    assert (job.out, job.revision) == ("made", None)
    assert read_job(project / "job.yaml", ["measuring=false"]).measuring is None
    for assignment, said in {
        "pruning.experts=x": "--set pruning.experts=x: pruning.experts is 'x'",
        "pruning.exprts=6": "did you mean 'experts'",
        "pruning.experts": "expected KEY=VALUE",
        "model.name=a": "model has no keys to set",
        "formats.types=[": "--set formats.types=[ is not usable YAML",
    }.items():
        with pytest.raises(RequestError) as refused:
            read_job(project / "job.yaml", [assignment])
        assert said in str(refused.value)


def test_the_model_that_is_included_is_no_folder_next_to_the_job(tmp_path: Path) -> None:
    (tmp_path / "gemmule").mkdir()
    (tmp_path / "job.yaml").write_text("model: gemmule\npruning: {experts: 24}\n")
    assert read_job(tmp_path / "job.yaml").model == "gemmule"


def test_a_job_needs_a_place_for_its_output(project: Path) -> None:
    (project / "job.yaml").write_text("model: models/tiny\npruning: {experts: 6}\n")
    with pytest.raises(InputError, match="does not say where its output goes"):
        secateur.run(project / "job.yaml")


@pytest.mark.parametrize("name", [*list_mixes(), "text"])
def test_a_mix_is_written_as_settings_that_give_it_again(name: str, project: Path) -> None:
    mix = read_mix(project / "texts" / "mix.yaml" if name == "text" else name)
    settings = mix_settings(mix, {}, ".")
    assert parse_mix(yaml.safe_load(yaml.safe_dump(settings)), mix.folder / "x.yaml") == mix
    if mix.sources[0].hub:
        pinned = mix_settings(mix, {mix.sources[0].name: "0" * 40}, ".")
        assert pinned["sources"][0]["revision"] == "0" * 40


@dataclass(frozen=True)
class _Part:
    size: int | str = 1
    share: float = 0.5


@dataclass(frozen=True)
class _Whole:
    word: Literal["true", "other"]
    parts: tuple[_Part, ...] = ()
    by_layer: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    part: _Part | None = field(default_factory=_Part)
    file: Path | None = None
    hidden: int = field(default=0, metadata={"key": False})


def test_any_dataclass_is_read(tmp_path: Path) -> None:
    """A new field of a request is a new key, whatever its type."""
    path = tmp_path / "a.yaml"

    def read(text: str, *assignments: str) -> Any:
        path.write_text(text)
        root = read_nodes(path, "a whole", InputError)
        for assignment in assignments:
            set_value(root, assignment, "--set", InputError)
        return read_dataclass(_Whole, root, Reader(InputError, lambda text, node: Path("/", text)))

    assert read("word: true\nparts: [{size: 5G}, {share: 1e-3}]\nby_layer: {3: [1]}\nfile: x") == (
        _Whole("true", (_Part("5G"), _Part(share=0.001)), {3: (1,)}, file=Path("/x"))
    )
    assert read("word: other\nparts: [{}]\npart: false", "parts.0.size=3") == _Whole(
        "other", (_Part(3),), part=None
    )
    for text in ("word: true\nhidden: 1", "word: true\nparts: [{sise: 1}]", "word: [true]"):
        with pytest.raises(InputError, match=r"a\.yaml:[12]: "):
            read(text)


@pytest.mark.parametrize(
    ("asked", "made_on", "resolved"),
    [
        ("auto", "cuda", "cuda"),  # on another machine, or before this one was called again
        ("auto", "cpu", "cpu"),
        ("cuda", "cpu", "cpu"),
        ("cuda:1", "cuda", "cuda:1"),
        ("cuda:1", None, "cuda:1"),
        ("cpu", None, "cpu"),
    ],
)
def test_a_resolved_job_names_the_device_that_was_used(
    asked: str, made_on: str | None, resolved: str
) -> None:
    assert resolve_device(asked, made_on) == resolved
