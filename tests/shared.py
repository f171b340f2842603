"""What all workers of a parallel run (pytest-xdist) share: the first that needs a thing makes it,
the others wait for it and read."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from secateur.system.atomic import write_bytes
from secateur.system.locks import locked, made_once

T = TypeVar("T")

Files = dict[str, tuple[int, int]]
"""{path below a folder: bytes, time of the last change}"""


class _Made(NamedTuple):
    """What was made: the value, and the files as they were when it was finished."""

    value: Any
    files: Files


class Shared:
    """Folders of one run of the tests: each is made once, and read only from then on."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        base = factory.getbasetemp()  # a worker's is a folder in that of the run
        alone = "PYTEST_XDIST_WORKER" not in os.environ
        self._home = (base if alone else base.parent) / "shared"
        self._made: dict[str, _Made] = {}

    def make(self, name: str, make: Callable[[Path], T]) -> T:
        """What `make(folder)` returns, which is pickled; it may keep files in the folder."""
        if name not in self._made:
            done = self._home / f"{name}.pickle"
            folder = self._home / name

            def begin() -> _Made:
                shutil.rmtree(folder, ignore_errors=True)  # of one that failed
                folder.mkdir(parents=True)
                made = _Made(make(folder), _files_of(folder))
                write_bytes(done, pickle.dumps(made))
                return made

            def load() -> _Made:
                found: _Made = pickle.loads(done.read_bytes())
                return found

            self._made[name] = made_once(done, load, begin, lambda: None)
        value: T = self._made[name].value
        return value

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Only one worker at a time is in a block of this name."""
        with locked(self._home / name):
            yield

    def check(self) -> None:
        """Nothing of what was shared may have been changed, or others would depend on it."""
        changed = [name for name, made in self._made.items() if made.files != self._now(name)]
        assert not changed, f"a test wrote into {changed}, which all tests share"

    def _now(self, name: str) -> Files:
        return _files_of(self._home / name)


def _files_of(folder: Path) -> Files:
    """All files but the locks of those who read them now."""
    found = {path: path.lstat() for path in sorted(folder.rglob("*")) if path.suffix != ".lock"}
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}
