"""Work by threads that nobody has to wait for."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from secateur.system.as_they_come import as_they_come


def test_all_results_come_once() -> None:
    assert sorted(as_they_come(lambda n: n * n, range(50), 4)) == [n * n for n in range(50)]
    assert list(as_they_come(str, [], 4)) == []


def test_what_is_done_first_comes_first() -> None:
    late = threading.Event()

    def work(name: str) -> str:
        if name == "late":
            assert late.wait(60)
        return name

    found = as_they_come(work, ["late", "early"], 2)
    assert next(found) == "early"
    late.set()
    assert list(found) == ["late"]


def test_nothing_is_begun_after_the_end() -> None:
    begun, go_on = [], threading.Semaphore(0)

    def work(number: int) -> int:
        begun.append(number)
        if number:
            go_on.acquire()
        return number

    found = as_they_come(work, range(9), 1)
    assert next(found) == 0
    found.close()
    go_on.release(9)
    for thread in threading.enumerate():
        if thread.name.startswith("as-they-come"):
            thread.join(60)
    assert begun in ([0], [0, 1])


def test_an_error_is_raised_and_ends_it() -> None:
    hanging = threading.Event()

    def work(number: int) -> int:
        if number:
            hanging.wait()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(as_they_come(work, range(3), 2))
    hanging.set()


def test_a_process_ends_without_what_hangs() -> None:
    code = (
        "import threading; from secateur.system.as_they_come import as_they_come as a\n"
        "found = a(lambda n: n and threading.Event().wait(), range(3), 2)\n"
        "print(next(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, check=True)
    assert done.stdout == b"0\n"
