"""Measuring in parts, here, by hand and on a Ray cluster: the bytes of one run."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ray_cluster import RAY_STORE, kill_a_worker, on_ray, ray_nodes
from safetensors import safe_open
from tiny_line import Line, Run

from secateur import Measuring, Running, measure
from secateur.api import measure_parts, measured_part
from secateur.api.measure_parts import _remove_parts
from secateur.api.measured_part import OpenMeasuring
from secateur.errors import InputError
from secateur.evaluation.parts import split_answers
from secateur.evaluation.tokens.answers import Answer, answer_set
from secateur.forward.batches import ON_CPU
from secateur.outputs.registry import artefacts_of
from secateur.release.report import REPORT
from secateur.system.array_file import check_arrays
from secateur.system.workdir import SUFFIX

PARTS = 3
TALKS = 230


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations of unlike lengths, enough for some groups."""
    path = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    lines = []
    for number in range(TALKS):
        messages = [
            {"role": "user", "content": f"Say {number}."},
            {"role": "assistant", "content": f"x{number}" * (1 + number % 9)},
        ]
        domain = ("sums", "names")[number % 2]
        lines.append(json.dumps({"id": f"n{number}", "domain": domain, "messages": messages}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def request_(answers: Path) -> Measuring:
    return Measuring(answers=answers, device="cpu")


@pytest.fixture(scope="module")
def few(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with two artefacts: a copy of `made` that may be measured."""
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("few") / "out"))


@pytest.fixture(scope="module")
def whole(
    few: Path, line: Line, request_: Measuring, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What one run leaves: the report, and all that it keeps for the next time."""
    work = tmp_path_factory.mktemp("whole")
    measure(few, line.model, request_, work=work, workers=1)
    return result(few, work)


def result(out: Path, work: Path) -> dict[str, str]:
    """{name: sha256 of its content}: of arrays the one in the header, which is of them and of all
    else in it (the library writes a header's keys in any order)."""
    return {**kept(work), "report.json": hashlib.sha256((out / REPORT).read_bytes()).hexdigest()}


def kept(work: Path) -> dict[str, str]:
    found = {}
    for path in work.glob("*.safetensors"):
        check_arrays(path)
        with safe_open(path, "np") as file:
            found[path.name] = file.metadata()["sha256"]
    return found


def test_a_file_in_two_parts_gives_the_report_of_one_run(
    made: Path, line: Line, answers: Path, tmp_path: Path
) -> None:
    gguf = shutil.copy(made / "tiny-moe-6e-Q8_0.gguf", tmp_path)
    some = tmp_path / "answers.jsonl"
    some.write_text("".join(answers.read_text().splitlines(keepends=True)[: TALKS * 4 // 5]))
    request = Measuring(answers=some, device="cpu")
    once = measure(gguf, line.model, request, work=tmp_path / "once", workers=1)
    running = Running(1, parts=2)
    in_two = measure(gguf, line.model, request, work=tmp_path / "two", workers=running)
    assert in_two.to_json() == once.to_json()
    assert kept(tmp_path / "two") == kept(tmp_path / "once")


def test_what_is_put_together_leaves_the_parts_of_other_artefacts(tmp_path: Path) -> None:
    home = tmp_path / "parts-0"
    other, begun = home / "other-1", home / f"original-2{SUFFIX}"
    for folder in (home / "floor", home / "mine-1", home / "original-1", other, begun):
        folder.mkdir(parents=True)
    _remove_parts(home, ["mine-1", "floor"])
    assert {path.name for path in home.iterdir()} == {"original-1", other.name, begun.name}
    other.rmdir()
    _remove_parts(home, ["mine-1", "floor"])
    assert begun.is_dir()
    begun.rmdir()
    _remove_parts(home, [])
    assert not home.exists()
    _remove_parts(home, [])


@pytest.mark.slow
def test_parts_here_give_the_bytes_of_one_run(
    few: Path, line: Line, request_: Measuring, whole: dict[str, str], tmp_path: Path
) -> None:
    said: list[tuple[str, int, int]] = []

    def hear(stage: str, done: int, total: int, unit: str) -> None:
        if unit == "parts":
            said.append((stage, done, total))

    running = Running(1, parts=PARTS)
    measure(few, line.model, request_, work=tmp_path, workers=running, progress=hear)
    assert result(few, tmp_path) == whole
    assert not list(tmp_path.glob("parts-*"))
    subjects = len(artefacts_of(few))
    every = subjects * PARTS + 1
    assert said[0] == ("original", 0, PARTS) and said[-1] == ("scores", every, every)


@pytest.mark.slow
def test_a_part_that_is_made_is_not_made_again(
    few: Path, line: Line, request_: Measuring, whole: dict[str, str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made: list[str] = []
    real = measured_part.score_part

    def stop_at_the_fifth(inputs: OpenMeasuring, part: Any, folder: Path, threads: int) -> None:
        if len(made) == 4:
            made.append("stopped")
            raise KeyboardInterrupt
        made.append(type(part).__name__)
        real(inputs, part, folder, threads)

    monkeypatch.setattr(measure_parts, "score_part", stop_at_the_fifth)
    running = Running(1, parts=PARTS)
    with pytest.raises(KeyboardInterrupt):
        measure(few, line.model, request_, work=tmp_path, workers=running)
    measure(few, line.model, request_, work=tmp_path, workers=running)
    subjects = len(artefacts_of(few))
    assert len(made) == subjects * PARTS + 1 + 1  # the floor, and the one that was stopped
    assert result(few, tmp_path) == whole


@pytest.mark.slow
def test_shards_made_by_hand_are_put_together(
    few: Path, line: Line, answers: Path, whole: dict[str, str], run: Run, tmp_path: Path
) -> None:
    words = ("measure", few)
    options = {"against": line.model, "answers": answers, "device": "cpu", "workers": 1}
    for number in range(1, PARTS + 1):
        folder = tmp_path / f"machine{number}"
        ran = run(*words, shard=f"{number}/{PARTS}", work=folder, json=True, **options)
        assert ran.code == 0
        shutil.copytree(ran.json["folder"], tmp_path / "all" / Path(ran.json["folder"]).name,
                        dirs_exist_ok=True)  # fmt: skip
    ran = run(*words, parts=PARTS, work=tmp_path / "all", **options)
    assert ran.code == 0
    assert result(few, tmp_path / "all") == whole
    ran = run(*words, shard="1/3", parts=2, **options)
    assert ran.code == 2 and "shard makes one part by hand" in ran.said[-1]
    ran = run(*words, shard="1/99", work=tmp_path / "all", **options)
    assert ran.code == 2 and "too few for 99 parts: they make " in ran.said[-1]


def test_an_artefact_that_another_machine_lacks_is_refused(
    few: Path, line: Line, tmp_path: Path
) -> None:
    from secateur import open_checkpoint

    inputs = OpenMeasuring(open_checkpoint(line.model), "cpu")
    with pytest.raises(InputError, match="is not there on this machine: put the output on a disk"):
        inputs.artefact(str(tmp_path / "none"), "0" * 64, 1)
    with pytest.raises(InputError, match="is another model on this machine"):
        inputs.artefact(str(few), "0" * 64, 1)


def test_parts_hold_each_answer_once_and_depend_on_the_answers_alone() -> None:
    every = answer_set(
        (
            Answer(f"a{n}", "d", "answers", tuple(range(10 + n % 70)), 3 + n % 5, "stop")
            for n in range(400)
        ),
        {},
    )
    parts = split_answers(every, 8, ON_CPU, 3)
    numbers = [number for part in parts for number in part.numbers]
    assert sorted(numbers) == list(range(400)) and len(parts) == 3
    for part in parts:
        assert part.answers.answers == tuple(every.answers[number] for number in part.numbers)
        again = [n for group in part.answers.groups or () for batch in group for n in batch]
        assert sorted(again) == list(range(len(part.numbers)))
    assert len({part.answers.sha256 for part in parts}) == 3
    assert len(split_answers(every, 8, ON_CPU, 10**6)) < 400


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own
def test_ray_gives_the_bytes_of_one_run_with_one_worker_with_two_and_after_a_kill(
    only_cluster: None,
    few: Path,
    line: Line,
    request_: Measuring,
    whole: dict[str, str],
    tmp_path: Path,
) -> None:
    with ray_nodes(1, cores=2) as made:
        for name, workers in (("two", 1), ("one", 2)):
            work = tmp_path / name
            measure(few, line.model, request_, work=work, workers=on_ray(workers))
            assert result(few, work) == whole
        made.add_node(num_cpus=2, object_store_memory=RAY_STORE)
        killed: list[int] = []

        def kill(stage: str, done: int, total: int, unit: str) -> None:
            if stage == "scores" and unit == "parts" and done and not killed:
                killed.append(kill_a_worker())

        work = tmp_path / "killed"
        measure(few, line.model, request_, work=work, workers=on_ray(2), progress=kill)
        assert killed and result(few, work) == whole
