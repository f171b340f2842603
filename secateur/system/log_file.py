"""A file that another program writes its log to, as it runs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from secateur.system.atomic import writing


@contextmanager
def open_log(path: Path | None) -> Iterator[IO[str]]:
    """A text file to append to; without a path one that is gone when the block ends.

    Makes the folder. Raises WriteError when the disk refuses.
    """
    if path is None:
        with tempfile.TemporaryFile("a+", encoding="utf-8", errors="replace") as file:
            yield file
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8", errors="replace")
    with file:
        yield file
