"""The power is cut anywhere: the same bytes come out in the end, and what was done stays done."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from killed_line import LONG_AGO, Cut, Killer, killer
from tiny_line import Line, Run, files_of

POINTS = 18
"""Places in each of the commands where it is killed."""

FEWER = 7
"""In those that keep nothing of a run that was stopped, or little."""
NAMES = ("calibrate", "apply gguf", "apply mlx", "apply safetensors", "measure", "release")
OTHERS = ("merge", "synth")


class Command(NamedTuple):
    """A command that is killed: its words for a room, what is there before, and what comes of it.

    `again` is how much of the work (layers of a pass, tensors of a file, batches of answers) may
    have to be done a second time.
    """

    words: Callable[[Path], Sequence[object]]
    prepare: Callable[[Path], object]
    result: Callable[[Path], dict[str, bytes]]
    again: int


def folder_files(room: Path) -> dict[str, bytes]:
    return files_of(room / "out")


def all_files(room: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in room.iterdir()}


@pytest.fixture
def commands(line: Line, made: Path, run: Run, tmp_path: Path) -> dict[str, Command]:
    def nothing(room: Path) -> None:
        room.mkdir()

    def copy(room: Path) -> None:
        shutil.copytree(made, room / "out")

    def released(room: Path) -> None:
        """Before, for another repository."""
        copy(room)
        assert run("release", room / "out", repository="you/other").code == 0

    found = {
        "calibrate": Command(
            lambda room: [
                "calibrate", line.model, "--corpus", line.corpus, "--keep-sample", "--gram", "own",
                "--workers", 1, "-o", room / "stats.safetensors",
            ],
            nothing,
            all_files,
            again=1,  # the layer in which it was killed
        ),
        "measure": Command(
            lambda room: [
                "measure", room / "out", "--against", line.model, "--prompts", line.prompts,
                "--per-domain", 1, "--answer-tokens", 12, "--workers", 1,
            ],
            copy,
            folder_files,
            again=2,  # the pass over one artefact: two layers
        ),
        "release": Command(
            lambda room: ["release", room / "out", "--repository", "me/tiny"],
            released,
            folder_files,
            again=0,
        ),
    }  # fmt: skip
    recipe = tmp_path / "near.yaml"
    rules = [{"role": role, "type": "none"} for role in ("router", "expert.down", "dense.down")]
    recipe.write_text(
        json.dumps({"name": "near", "to": "mlx", "base": "affine-8-32", "rules": rules})
    )
    for form, to in (("Q8_0,Q4_K_M", "gguf"), (recipe, "mlx"), (None, "safetensors")):
        plan = tmp_path / f"{to}.json"
        options = {"types": form} if form else {}
        ran = run("plan", line.model, experts=8, to=to, out=plan, **options)
        assert ran.code == 0, ran.err

        def words(room: Path, plan: Path = plan) -> Sequence[object]:
            return ["apply", plan, "--out", room / "out", "--workers", 1]

        found[f"apply {to}"] = Command(words, nothing, folder_files, again=2)
    return found


@pytest.fixture
def others(line: Line, run: Run, tmp_path: Path) -> dict[str, Command]:
    parts = [tmp_path / f"{name}.safetensors" for name in ("corpus", "rows")]
    for path, text in zip(parts, ({"corpus": line.corpus}, {"rows": line.rows}), strict=True):
        ran = run("calibrate", line.model, "--keep-sample", gram="shared", out=path, **text)
        assert ran.code == 0, ran.err
    return {
        "merge": Command(
            lambda room: ["merge", *parts, "--model", line.model, "-o", room / "all.safetensors"],
            Path.mkdir,
            all_files,
            again=0,
        ),
        "synth": Command(
            lambda room: ["synth", line.model / "config.json", "-o", room / "out"],
            Path.mkdir,
            folder_files,
            again=2,
        ),
    }


def spread(changes: int, points: int) -> list[int]:
    """So many of the changes, from the first to the last."""
    assert changes >= points
    return sorted({1 + n * (changes - 1) // (points - 1) for n in range(points)})


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_killed_at_a_hundred_places_it_ends_the_same(
    name: str, forks: Killer, commands: dict[str, Command], tmp_path: Path
) -> None:
    assert POINTS * len(NAMES) >= 100
    assert kill(commands[name], forks, tmp_path, POINTS) == POINTS


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_quick_is_killed_at_some_places_too(
    name: str, forks: Killer, others: dict[str, Command], tmp_path: Path
) -> None:
    assert kill(others[name], forks, tmp_path, FEWER) == FEWER


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Killer, Path]]:
    """Runs whose clock a file sets, and the file. Files have the times of the real clock."""
    from libfaketime import get_reload_information

    file = tmp_path_factory.mktemp("clock") / "clock"
    file.write_text("+0")
    _, environment = get_reload_information()
    environment |= {"FAKETIME_TIMESTAMP_FILE": str(file), "NO_FAKE_STAT": "1"}
    with killer(**environment) as found:
        yield found, file


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_clock_that_jumps_back_changes_nothing(
    name: str, clock: tuple[Killer, Path], commands: dict[str, Command], tmp_path: Path
) -> None:
    """In the middle of a run, and between a kill and the call that goes on."""
    command, (forks, file) = commands[name], clock
    file.write_text("+0")
    whole, jumped, cut = (tmp_path / word for word in ("whole", "jumped", "cut"))
    for room in (whole, jumped, cut):
        command.prepare(room)
    ended = forks.run(*command.words(whole), folder=whole)
    assert ended.code == 0, ended.err
    middle = ended.changes // 2
    found = forks.run(*command.words(jumped), folder=jumped, at=middle, accident=("clock", file))
    assert file.read_text() == LONG_AGO
    assert found.code == 0, found.err
    assert found.work == ended.work
    file.write_text("+0")
    killed = forks.run(*command.words(cut), folder=cut, at=middle)
    assert killed.code == -signal.SIGKILL, killed.err
    file.write_text(LONG_AGO)
    again = go_on(command, forks, cut)
    assert len(killed.work) + len(again.work) <= len(ended.work) + command.again
    assert command.result(jumped) == command.result(cut) == command.result(whole)


def kill(command: Command, forks: Killer, folder: Path, points: int) -> int:
    """Kill a command at places spread over its changes of the disk, and call it again each time.

    Returns the number of kills. The result is that of an undisturbed run, to the byte; what was
    done before is not done again.
    """
    whole = folder / "whole"
    command.prepare(whole)
    ended = forks.run(*command.words(whole), folder=whole)
    assert ended.code == 0, ended.err
    expected = command.result(whole)
    kills = 0
    for at in spread(ended.changes, points):
        room = folder / f"room{at}"
        command.prepare(room)
        cut = forks.run(*command.words(room), folder=room, at=at)
        assert cut.code == -signal.SIGKILL, (at, cut.err)
        kills += 1
        again = go_on(command, forks, room)
        assert command.result(room) == expected, at
        assert len(cut.work) + len(again.work) <= len(ended.work) + command.again, at
        assert not leftovers(room), at
        shutil.rmtree(room)
        shutil.rmtree(f"{room}-cache", ignore_errors=True)
    for path in (whole, Path(f"{whole}-cache")):
        shutil.rmtree(path, ignore_errors=True)
    return kills


def go_on(command: Command, forks: Killer, room: Path) -> Cut:
    """Call a command that was killed again, unless its very last step was done."""
    again = forks.run(*command.words(room), folder=room)
    if again.code == 2 and "exists already" in again.err:
        return again
    assert again.code == 0, again.err
    return again


def leftovers(room: Path) -> list[Path]:
    return [
        path for path in room.rglob("*") if path.name.endswith((".partial", ".secateur-incomplete"))
    ]
