"""What happens to files while we work: a disk that fills, one that may not be written, weights that
vanish or change, another process in the same place. On a real disk of a few MB."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from killed_line import Cut, Killer, killer
from tiny_line import Line, Run, files_of, without_progress

from secateur.system.bus_error import SENTENCE

SIZE = 24 << 20


@contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """A disk of SIZE bytes, in memory."""
    folder.mkdir()
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    options = f"size={SIZE},uid={os.geteuid()},mode=755"
    mount = [*sudo, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield folder
    finally:
        subprocess.run([*sudo, "umount", "-l", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk") as found:
        yield found


def remount(disk: Path, options: str) -> None:
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    subprocess.run([*sudo, "mount", "-o", f"remount,{options}", str(disk)], check=True)


Words = Callable[[Path], list[object]]


def calibrating(model: Path, line: Line) -> Words:
    return lambda room: [
        "calibrate", model, "--corpus", line.corpus, "--keep-sample", "--gram", "own",
        "--workers", 1, "-o", room / "stats.safetensors",
    ]  # fmt: skip


def results(room: Path) -> dict[str, bytes]:
    """All files of a room, but not what is being worked on."""
    return {
        str(path.relative_to(room)): path.read_bytes()
        for path in sorted(room.rglob("*"))
        if path.is_file() and ".secateur-incomplete" not in str(path) and path.name != "run.json"
    }


def spread(changes: int, points: int) -> list[int]:
    return sorted({1 + n * (changes - 1) // (points - 1) for n in range(points)})


@pytest.mark.slow
@pytest.mark.parametrize("what", ["calibrate", "apply"])
def test_a_disk_that_fills_is_said_and_costs_nothing(
    what: str, forks: Killer, line: Line, run: Run, disk: Path, tmp_path: Path
) -> None:
    """Something else takes all room in the middle; when there is room again, it goes on."""
    words = calibrating(line.model, line)
    if what == "apply":
        plan = tmp_path / "plan.json"
        assert run("plan", line.model, experts=8, types="Q8_0", out=plan).code == 0
        words = lambda room: ["apply", plan, "--out", room / "out", "--workers", 1]  # noqa: E731
    (disk / "whole").mkdir()
    whole = forks.run(*words(disk / "whole"), folder=disk / "whole")
    assert whole.code == 0, whole.err
    expected = results(disk / "whole")
    for at in spread(whole.changes, 12):
        room = disk / "room"
        room.mkdir()
        ended = forks.run(*words(room), folder=room, at=at, accident=("fill", disk / "ballast"))
        if ended.code:
            last = without_progress(ended.err)[-1]
            if " free, but " in last:  # it looked before it began to write
                assert ended.code in (1, 2) and "make room" in last, ended.err
            else:
                assert ended.code == 1, ended.err
                assert last.startswith("secateur: cannot write "), ended.err
                assert "No space left on device" in last
            assert "Traceback" not in ended.err
            assert not set(results(room)) & {"stats.safetensors", "out/manifest.json"}
        (disk / "ballast").unlink(missing_ok=True)
        if ended.code:
            again = forks.run(*words(room), folder=room)
            assert again.code == 0, again.err
        assert results(room) == expected, at
        shutil.rmtree(room)


def test_a_disk_that_may_not_be_written(line: Line, run: Run, disk: Path) -> None:
    remount(disk, "ro")
    new, text = disk / "new", ["--corpus", line.corpus]
    few = ["--types", "Q8_0", "--experts", 6]
    for words in (
        ["calibrate", line.model, *text],
        ["plan", line.model, "--types", "Q8_0"],
        ["shrink", line.model, *few, *text, "--no-measure"],
    ):
        ran = run(*words, out=new)
        assert ran.code == 1, ran.err
        assert ran.said[-1].startswith(f"secateur: cannot write {new}"), ran.err
        assert "Traceback" not in ran.err
        assert list(disk.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accident", "said"),
    [
        ("vanish", "which was there when the work began"),
        ("change", "its weights were changed while they were worked on"),
    ],
)
def test_weights_that_do_not_stay(
    accident: str, said: str, forks: Killer, line: Line, tmp_path: Path
) -> None:
    """Before the second layer. The first one stays, and nothing of other weights gets in."""
    model = Path(shutil.copytree(line.model, tmp_path / "model"))
    shard, words = model / "model.safetensors", calibrating(model, line)
    kept, found = shard.read_bytes(), shard.stat()
    whole, room = tmp_path / "whole", tmp_path / "room"
    whole.mkdir()
    ended = forks.run(*words(whole), folder=whole)
    assert ended.code == 0, ended.err
    room.mkdir()
    at = ended.log[: ended.log.index("layer 1")].count(".")
    cut = forks.run(*words(room), folder=room, at=at, accident=(accident, shard))
    assert cut.code == 2, cut.err
    assert said in without_progress(cut.err)[-1]
    assert "Traceback" not in cut.err
    assert results(room) == {}
    shard.write_bytes(kept)
    os.utime(shard, ns=(found.st_atime_ns, found.st_mtime_ns))
    again = forks.run(*words(room), folder=room)
    assert again.code == 0, again.err
    assert "going on after 1 of 2 layers" in again.err
    assert results(room) == results(whole)
    assert again.work == ["layer 1"]


CUT = """
import os, sys
from secateur.checkpoint.reader import open_checkpoint
from secateur.cli import main as cli

def command(**_):
    model = open_checkpoint(sys.argv[1])
    spec = model.specs["model.embed_tokens.weight"]
    mapped = model.read(spec.name).array
    os.truncate(spec.path, spec.offset)
    return int(mapped.sum()) and 0

cli.app = command
cli.main()
"""


def test_weights_that_are_cut_while_they_are_mapped(line: Line, tmp_path: Path) -> None:
    """The system ends a process that reads them; it still says what happened."""
    model = Path(shutil.copytree(line.model, tmp_path / "model"))
    ended = subprocess.run(
        [sys.executable, "-c", CUT, model], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (1, ""), ended.stderr
    assert ended.stderr == f"secateur: {SENTENCE}\n"


@pytest.mark.slow
def test_two_processes_in_one_place(forks: Killer, line: Line, made: Path, tmp_path: Path) -> None:
    """One makes the statistics, the other says so; and what is kept for all serves both."""

    def both(words: Sequence[Sequence[object]]) -> list[Cut]:
        with killer() as other, ThreadPoolExecutor(2) as pool:
            runs = zip((forks, other), words, strict=True)
            futures = [pool.submit(one.run, *argv, folder=tmp_path) for one, argv in runs]
            return [future.result() for future in futures]

    words = calibrating(line.model, line)(tmp_path)
    ended = sorted(both([words, words]))
    assert [cut.code for cut in ended] == [0, 2], ended
    said = without_progress(ended[1].err)[-1]
    assert "another secateur process is making" in said or "exists already" in said
    outs = [Path(shutil.copytree(made, tmp_path / name)) for name in ("a", "b", "c")]
    measures = [
        ["measure", out, "--against", line.model, "--prompts", line.prompts, "--per-domain", 1,
         "--answer-tokens", 12, "--workers", 1]
        for out in outs
    ]  # fmt: skip
    ended = both(measures[:2])
    assert [cut.code for cut in ended] == [0, 0], ended
    assert forks.run(*measures[2], folder=tmp_path).work == []
    assert files_of(outs[0]) == files_of(outs[1]) == files_of(outs[2])
