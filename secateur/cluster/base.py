"""Work that is made in parts, each of them files in a folder, and who makes them.

What a part holds follows from the work alone, so it does not matter who makes it, when, or how
often. A part whose folder is there is not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from secateur.system.resources import cores
from secateur.system.workdir import complete_or_absent

_KEY = "part"
"""What an interrupted part is found by: there is one in its folder."""


@dataclass(frozen=True)
class Work:
    """Parts, by the names of their folders, with what tells one from another.

    `prepare(shared)` is called once by whoever makes parts; `make(prepared, part, folder, threads)`
    writes a part's files into a folder, which may hold what an interrupted run left there. Both
    are functions of a module, so that a process elsewhere can call them.
    """

    prepare: Callable[[Any], Any]
    make: Callable[[Any, Any, Path, int], None]
    shared: Any = field(repr=False)
    parts: Mapping[str, Any]


class Workers(Protocol):
    """Those who make parts; `device` is where they run models."""

    @property
    def device(self) -> str: ...

    def make(self, work: Work, folder: Path, count: Callable[[int], None]) -> None:
        """Make the parts of `work`, each in a folder of its name in `folder`; `count` is called
        with 1 for each. Raises what making a part raises."""


class Engine(Protocol):
    """A way to get workers for a device (or `auto`), with so many threads each (None: all), who
    say what keeps them waiting."""

    def __call__(
        self, device: str, threads: int | None, say: Callable[[str], None], /
    ) -> AbstractContextManager[Workers]: ...


@dataclass(frozen=True)
class Here:
    """This process, one part after the other."""

    device: str
    threads: int

    def make(self, work: Work, folder: Path, count: Callable[[int], None]) -> None:
        prepared = None
        for name, part in work.parts.items():
            prepared = prepared or work.prepare(work.shared)
            with complete_or_absent(folder / name, _KEY) as made:
                work.make(prepared, part, made, self.threads)
            count(1)


@contextmanager
def here(
    device: str = "auto",
    threads: int | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Iterator[Workers]:
    """The engine that needs nothing, and waits for nobody."""
    yield Here(device, threads or cores())
