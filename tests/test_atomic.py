"""A file is whole or as it was, whoever is killed or writes at the same time."""

from __future__ import annotations

import errno
import os
import resource
import secrets
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from safetensors.numpy import load_file

from secateur.errors import OutputError, WriteError
from secateur.system import workdir
from secateur.system.appended_lines import AppendedLines
from secateur.system.atomic import (
    atomic_path,
    check_writable,
    is_partial,
    remove_abandoned,
    remove_partials,
    write_bytes,
    write_safetensors,
    write_text,
)
from secateur.system.secret_file import read_or_make_secret
from secateur.system.workdir import publish, work_folder

_HALF = """
import sys, time
from pathlib import Path
from secateur.system.atomic import atomic_path
with atomic_path(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def half_written(path: Path) -> subprocess.Popen[str]:
    """A process in the middle of writing `path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HALF, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@contextmanager
def killed(path: Path) -> Iterator[None]:
    """With what is left of a writer of `path` that was killed."""
    process = half_written(path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert any(is_partial(file) for file in path.parent.iterdir())
    yield


def test_text_is_utf_8_and_the_folder_is_made(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "file", "grün\n")
    assert (tmp_path / "new" / "file").read_bytes() == "grün\n".encode()
    assert names(tmp_path / "new") == ["file"]


def test_an_interrupted_writer_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as partial:
        partial.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_what_a_killed_writer_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with killed(path):
        assert path.read_text() == "old"
        write_text(tmp_path / "another", "")
        assert len(names(tmp_path)) == 3
        write_text(path, "new")
    assert names(tmp_path) == ["another", "file"]
    assert path.read_text() == "new"


def test_a_running_writer_is_not_disturbed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    process = half_written(path)
    try:
        write_text(path, "new")
        remove_abandoned(tmp_path)
        assert len(names(tmp_path)) == 2
    finally:
        process.kill()
        process.communicate()
    remove_abandoned(tmp_path)
    assert names(tmp_path) == ["file"]


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 100_000 for number in range(4)]
    threads = [Thread(target=write_bytes, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert names(tmp_path) == ["file"]


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_safetensors(tmp_path / "arrays", {"a": np.arange(3)}, {"what": "numbers"})
        write_text(tmp_path / "text", "")
    finally:
        os.umask(before)
    for name in ("arrays", "text"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o644
    assert load_file(tmp_path / "arrays")["a"].tolist() == [0, 1, 2]


def test_a_full_disk_is_a_write_error_that_says_how_much_is_free(tmp_path: Path) -> None:
    message = r"file: No space .*\([0-9]+ bytes are free\): make room"
    with pytest.raises(WriteError, match=message), atomic_path(tmp_path / "file") as partial:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial))
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is a folder: name a file"):
        check_writable(tmp_path)
    for act in (check_writable, lambda path: write_text(path, "")):
        with pytest.raises(WriteError, match="cannot write .*/file/below"):
            act(tmp_path / "file" / "below")
    assert names(tmp_path) == ["file"]


def test_no_temporary_file_gets_into_a_finished_folder(tmp_path: Path) -> None:
    with work_folder(tmp_path / "out") as work:
        made = work / "made"
        with killed(made / "deep" / "file"):
            publish(made, tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out" / "deep") == []


def test_all_temporary_files_are_removed_from_a_folder_of_our_own(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in (".a.partial", "deep/.b.partial", "deep/b.partial"):
        (tmp_path / name).write_text("")
    remove_partials(tmp_path)
    assert names(tmp_path) == ["deep"]
    assert names(tmp_path / "deep") == ["b.partial"]


def test_a_work_folder_that_vanishes_while_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the process that had it ends at this moment."""
    lock, left = workdir.fcntl.flock, [1]

    def end(descriptor: int, how: int) -> None:
        lock(descriptor, how)
        if left:
            left.pop()
            (tmp_path / f"out{workdir.SUFFIX}").rmdir()

    monkeypatch.setattr(workdir.fcntl, "flock", end)
    with work_folder(tmp_path / "out") as work:
        assert work.is_dir() and not left


def test_an_output_that_was_finished_meanwhile_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, out = workdir.fcntl.flock, tmp_path / "out"

    def finish(descriptor: int, how: int) -> None:
        out.mkdir(exist_ok=True)
        lock(descriptor, how)

    monkeypatch.setattr(workdir.fcntl, "flock", finish)
    with pytest.raises(OutputError, match="exists already"), work_folder(out):
        raise AssertionError("it began")
    assert names(tmp_path) == ["out"]


def test_lines_that_the_disk_refuses_are_a_write_error_and_no_damage(tmp_path: Path) -> None:
    path, (soft, hard) = tmp_path / "lines", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(WriteError, match="cannot write .*lines"), AppendedLines(path) as lines:
            for number in range(30):
                lines.append({"number": number})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with AppendedLines(path) as again:
        assert again.lines == [{"number": number} for number in range(len(again.lines))]
        assert again.lines


def test_of_many_that_need_a_key_at_once_one_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, make = tmp_path / "folder" / "key", secrets.token_urlsafe

    def slowly(size: int) -> str:
        time.sleep(0.05)
        return make(size)

    monkeypatch.setattr(secrets, "token_urlsafe", slowly)
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(read_or_make_secret, [path] * 64))
    assert keys == {path.read_text().strip()} and len(keys.pop()) > 20
    assert path.stat().st_mode & 0o777 == 0o600 and names(path.parent) == ["key"]
