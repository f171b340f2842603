"""The whole line: what comes out, that it is always the same, and that nothing can spoil it."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest
from killed_line import Killer
from tiny_line import Line, Run, files_of, without_progress

from secateur import Report, read_plan, verify

TYPES = "Q8_0,Q4_K_M"


def argv(line: Line, out: Path, **options: object) -> list[object]:
    """`shrink` on the tiny line, as one gives it to a shell."""
    request: dict[str, object] = {
        "experts": 6, "types": TYPES, "corpus": line.corpus, "answers": line.answers,
        "workers": 1, "out": out,
    }  # fmt: skip
    words: list[object] = ["shrink", line.model]
    for name, value in (request | options).items():
        words += ["--" + name.replace("_", "-"), value]
    return words


def test_all_that_was_asked_for_is_there(made: Path) -> None:
    expected = {
        "LICENSE", "config.json", "expert_drop_metadata.json", "generation_config.json",
        "imatrix.gguf", "job.yaml", "manifest.json", "model.safetensors", "plan.json",
        "report.json", "evidence/statistics.safetensors", "evidence/statistics.text.safetensors",
        "tiny-moe-6e-Q4_K_M.gguf",
        "tiny-moe-6e-Q8_0.gguf",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert set(files_of(made)) == expected
    assert all((made / name).is_file() for name in ("run.json", "report.md"))
    assert [path.name for path in made.parent.iterdir()] == [made.name]


def test_every_weight_file_has_its_predicted_bytes(made: Path, shrunk: Report) -> None:
    plan = read_plan(made / "plan.json")
    for form in plan.formats:
        for name, predicted in plan.files[form].items():
            assert (made / name).stat().st_size == predicted
        assert shrunk.sizes[form]["predicted"] == shrunk.sizes[form]["written"]
    assert set(shrunk.sizes) == {"safetensors", "gguf-Q8_0", "gguf-Q4_K_M"}


def test_the_manifest_is_right(made: Path) -> None:
    assert verify(made) == ()
    manifest = json.loads((made / "manifest.json").read_text())
    assert manifest["files"].keys() == files_of(made).keys() - {"manifest.json"}
    assert manifest["plan_sha256"] == read_plan(made / "plan.json").sha256()
    assert {"python", "torch", "transformers", "xllamacpp"} <= manifest["versions"].keys()
    assert manifest["calibration"]["corpora"][0]["sha256"]


def test_nothing_published_names_a_local_path(made: Path, line: Line) -> None:
    folder = str(line.model.parent).encode()
    for name, content in files_of(made).items():
        assert folder not in content, name
        assert str(made.parent).encode() not in content, name


def test_the_same_request_gives_the_same_bytes(
    line: Line, made: Path, run: Run, tmp_path: Path
) -> None:
    ran = run(*argv(line, tmp_path / "out", workers=3))
    assert ran.code == 0
    assert files_of(tmp_path / "out") == files_of(made)


def test_prompts_are_answered_by_the_original(
    line: Line, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, with other workers and nothing cached: answers are drawn, but always the same."""
    words = argv(line, tmp_path / "out", types="Q8_0", per_domain=1)
    at = words.index("--answers")
    words[at : at + 2] = ["--prompts", line.prompts]
    found = []
    for workers in (1, 2):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache{workers}"))
        words[words.index("--workers") + 1] = workers
        words[words.index("--out") + 1] = tmp_path / f"out{workers}"
        assert run(*words).code == 0
        found.append(files_of(tmp_path / f"out{workers}"))
    assert found[0] == found[1]
    measured = json.loads(found[0]["report.json"])["answers"]
    assert measured["answers"] == 2
    assert measured["tokens"] > 0


@pytest.mark.slow
def test_killed_again_and_again_it_ends_the_same(
    forks: Killer, line: Line, made: Path, tmp_path: Path
) -> None:
    """Each run is killed at a later change than the one before, and finds what that had done."""
    out = tmp_path / "out"
    cuts = 0
    for at in (9, 19, 0):
        ended = forks.run(*argv(line, out), folder=tmp_path, at=at)
        if ended.code == 0:
            break
        assert ended.code == -signal.SIGKILL, ended.err
        assert not out.exists()
        cuts += 1
    assert cuts == 2
    assert files_of(out) == files_of(made)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_killed_at_any_change_it_ends_the_same(
    forks: Killer, line: Line, made: Path, tmp_path: Path
) -> None:
    """At 100 of the changes that a run makes, from the first to the last."""
    whole = forks.run(*argv(line, tmp_path / "whole"), folder=tmp_path)
    assert whole.code == 0
    assert whole.changes > 40
    points = min(100, whole.changes)
    for at in sorted({1 + k * (whole.changes - 1) // (points - 1) for k in range(points)}):
        out = tmp_path / f"out{at}"
        ended = forks.run(*argv(line, out), folder=tmp_path, at=at)
        assert ended.code in (0, -signal.SIGKILL), ended.err
        if not out.exists():
            assert forks.run(*argv(line, out), folder=tmp_path).code == 0
        assert files_of(out) == files_of(made), at


@pytest.mark.slow
def test_killed_at_random_times_it_ends_the_same(line: Line, made: Path, tmp_path: Path) -> None:
    import subprocess
    import sys
    import time

    command = [sys.executable, "-m", "secateur.cli.main", *map(str, argv(line, tmp_path / "out"))]
    draw = random.Random(0)
    for _ in range(8):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(2, 9))
        process.kill()
        process.wait()
        if (tmp_path / "out").exists():
            break
    if not (tmp_path / "out").exists():
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert files_of(tmp_path / "out") == files_of(made)


@pytest.mark.slow
def test_apply_killed_again_and_again_ends_the_same(
    forks: Killer, line: Line, run: Run, tmp_path: Path
) -> None:
    """A finished tensor is a line in a journal, and so a change: who goes on makes fewer."""
    plan, room = tmp_path / "plan.json", tmp_path / "room"
    assert run("plan", line.model, experts=8, types=TYPES, out=plan).code == 0
    whole = forks.run("apply", plan, "--out", room / "whole", folder=room)
    assert whole.code == 0
    words = ["apply", plan, "--out", room / "out"]
    for at in (3, 9, whole.changes // 2):
        ended = forks.run(*words, folder=room, at=at)
        assert ended.code == -signal.SIGKILL
        assert not (room / "out").exists()
    other = tmp_path / "other.json"
    assert run("plan", line.model, experts=8, types="Q8_0", out=other).code == 0
    ran = run("apply", other, out=room / "out")
    assert ran.code == 2
    assert "is the unfinished work of another plan" in ran.err
    last = forks.run(*words, folder=room)
    assert last.code == 0
    assert last.changes < whole.changes - 20
    assert files_of(room / "out") == files_of(room / "whole")
    assert {path.name for path in room.iterdir()} == {"out", "whole"}


@pytest.mark.slow
def test_apply_killed_at_any_change_ends_the_same(
    forks: Killer, line: Line, run: Run, tmp_path: Path
) -> None:
    plan, room = tmp_path / "plan.json", tmp_path / "room"
    assert run("plan", line.model, experts=8, types="Q8_0", out=plan).code == 0
    room.mkdir()
    assert forks.run("apply", plan, "--out", room / "whole", folder=room).code == 0
    # Counted a second time: the first run also wrote the hashes of the weights into the cache.
    whole = forks.run("apply", plan, "--out", room / "again", folder=room)
    for at in range(1, whole.changes + 1):
        out = room / f"out{at}"
        words = ["apply", plan, "--out", out]
        assert forks.run(*words, folder=room, at=at).code == -signal.SIGKILL
        if not out.exists():
            assert forks.run(*words, folder=room).code == 0
        assert files_of(out) == files_of(room / "whole"), at


def test_ctrl_c_in_the_middle_of_a_pass_says_what_is_kept(
    line: Line, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("secateur.forward.stream.ForwardPass.load_layer", press)
    # A shell that starts the tests in the background makes them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ran = run("calibrate", line.model, corpus=line.corpus, out=tmp_path / "stats", workers=1)
    finally:
        signal.signal(signal.SIGINT, before)
    kept = tmp_path / "stats.secateur-incomplete"
    said = f"interrupted: what is done is kept in {kept}: the same command goes on there"
    assert (ran.code, ran.said[-1]) == (130, f"secateur: {said}")
    assert not (tmp_path / "stats").exists()


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 20])
def test_ctrl_c_is_one_line_and_code_130(
    at: int, forks: Killer, line: Line, made: Path, tmp_path: Path
) -> None:
    ended = forks.run(*argv(line, tmp_path / "out"), folder=tmp_path, at=at, signal=signal.SIGINT)
    assert ended.code == 130
    said = without_progress(ended.err)[-1]
    assert not (tmp_path / "out").exists()
    if at == 2:
        assert said == "secateur: interrupted"
    else:
        kept = tmp_path / "out.secateur-incomplete"
        assert said == (
            f"secateur: interrupted: what is done is kept in {kept}: the same command goes on there"
        )
        assert forks.run(*argv(line, tmp_path / "out"), folder=tmp_path).code == 0
        assert files_of(tmp_path / "out") == files_of(made)


@pytest.mark.slow
def test_ctrl_c_in_apply_is_one_line_and_the_next_call_goes_on(
    forks: Killer, line: Line, run: Run, tmp_path: Path
) -> None:
    plan, room = tmp_path / "plan.json", tmp_path / "room"
    assert run("plan", line.model, experts=8, types="Q8_0", out=plan).code == 0
    words = ["apply", plan, "--out", room / "out"]
    ended = forks.run(*words, folder=room, at=20, signal=signal.SIGINT)
    kept = room / "out.secateur-incomplete"
    said = f"what is done is kept in {kept}: the same command goes on there"
    assert (ended.code, without_progress(ended.err)) == (130, [f"secateur: interrupted: {said}"])
    assert [path.name for path in room.iterdir()] == ["out.secateur-incomplete"]
    assert forks.run(*words, folder=room).code == 0
    assert [path.name for path in room.iterdir()] == ["out"]
    assert verify(room / "out") == ()


@pytest.mark.slow
def test_another_request_in_the_same_place_takes_nothing_of_the_first(
    forks: Killer, line: Line, made: Path, tmp_path: Path
) -> None:
    """An unfinished run on other rows, then the usual one: as if the first had never been."""
    out = tmp_path / "out"
    words = argv(line, out)
    at = words.index("--corpus")
    words[at : at + 2] = ["--rows", line.rows]
    assert forks.run(*words, folder=tmp_path, at=30).code == -signal.SIGKILL
    assert forks.run(*argv(line, out), folder=tmp_path).code == 0
    assert files_of(out) == files_of(made)


def test_two_runs_cannot_make_one_output(line: Line, run: Run, tmp_path: Path) -> None:
    import fcntl
    import os

    work = tmp_path / "out.secateur-incomplete"
    work.mkdir()
    held = os.open(work, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    ran = run(*argv(line, tmp_path / "out"))
    os.close(held)
    assert ran.code == 2
    assert ran.err.splitlines()[-1].startswith("secateur: another secateur process is making")
