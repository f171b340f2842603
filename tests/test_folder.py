"""An output folder is complete or absent, whatever happens while it is made."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from secateur.errors import NumericError, OutputError, PlanError, WriteError
from secateur.system.workdir import SUFFIX, complete_or_absent, work_folder

_HOLD = """
import sys, time
from pathlib import Path
from secateur.system.workdir import complete_or_absent
with complete_or_absent(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def hold(path: Path) -> subprocess.Popen[str]:
    """A process that is in the middle of writing `path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_finished_folder_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with complete_or_absent(out) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("done")
        assert not out.exists()
    assert (out / "deep" / "file").read_text() == "done"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error), complete_or_absent(tmp_path / "out") as folder:
        (folder / "file").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_failing_disk_is_a_write_error(number: int, tmp_path: Path) -> None:
    with (
        pytest.raises(WriteError, match=f"out: {os.strerror(number)}") as caught,
        complete_or_absent(tmp_path / "out"),
    ):
        raise OSError(number, os.strerror(number))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_system_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), complete_or_absent(tmp_path / "out"):
        (tmp_path / "nowhere").read_text()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_an_existing_path_is_refused_and_untouched(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(tmp_path / "gone")
    before = out.lstat()
    with (
        pytest.raises(
            OutputError, match="exists already: name an output folder that does not exist yet"
        ) as caught,
        complete_or_absent(out),
    ):
        pass
    assert caught.value.exit_code == 2
    assert out.lstat() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_path_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(OutputError), complete_or_absent(tmp_path / "out"):
        (tmp_path / "out").mkdir()
    assert list((tmp_path / "out").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_kill_9_leaves_is_removed_by_the_next_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = hold(out)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["out" + SUFFIX]
    with complete_or_absent(out) as folder:
        assert list(folder.iterdir()) == []
        (folder / "file").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, WriteError, OSError(errno.ENOSPC, "full")])
def test_work_with_a_key_is_gone_on_with(
    error: BaseException | type[BaseException], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises((KeyboardInterrupt, WriteError)), complete_or_absent(out, "a") as folder:
        (folder / "half").write_text("half")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["out" + SUFFIX]
    for key in ("b", "aa"):
        with (
            pytest.raises(OutputError, match=f"out{SUFFIX}/a is the unfinished work of another"),
            complete_or_absent(out, key),
        ):
            pass
    with complete_or_absent(out, "a") as folder:
        assert (folder / "half").read_text() == "half"
        assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["half"]


def test_work_that_would_fail_again_is_not_kept(tmp_path: Path) -> None:
    for error in (PlanError, NumericError):
        with pytest.raises(error), complete_or_absent(tmp_path / "out", "a") as folder:
            (folder / "half").write_text("half")
            raise error
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(WriteError), complete_or_absent(tmp_path / "out", "a"):
        raise WriteError  # before anything was made
    assert list(tmp_path.iterdir()) == []


def test_two_runs_cannot_make_one_folder(tmp_path: Path) -> None:
    process = hold(tmp_path / "out")
    try:
        with (
            pytest.raises(OutputError, match="another secateur process"),
            complete_or_absent(tmp_path / "out"),
        ):
            pass
        assert (tmp_path / ("out" + SUFFIX) / "output" / "half").exists()
    finally:
        process.kill()
        process.communicate()


def test_a_folder_that_cannot_be_made_is_a_write_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot write"), complete_or_absent(tmp_path / "file/out"):
        pass


def test_finished_work_whose_place_was_taken_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutputError), complete_or_absent(out, "a") as folder:
        (folder / "file").write_text("whole")
        out.mkdir()
    out.rmdir()
    with complete_or_absent(out, "a") as folder:
        assert (folder / "file").read_text() == "whole"


def test_only_a_fault_of_the_output_is_said_to_be_one(tmp_path: Path) -> None:
    """An error of the network is not one of the disk; nor is another file's."""

    class Unreachable(OSError):
        pass

    for error in (Unreachable("connection refused"), PermissionError(13, "denied", "mine.json")):
        with pytest.raises(type(error)) as caught, work_folder(tmp_path / "out"):
            raise error
        assert caught.value is error
    with (
        pytest.raises(WriteError, match="cannot write .*/out: denied"),
        work_folder(tmp_path / "out") as work,
    ):
        raise PermissionError(13, "denied", str(work / "file"))
    assert list(tmp_path.iterdir()) == []
