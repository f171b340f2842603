"""Small works for the Ray engine, whose functions another process can import."""

from __future__ import annotations

import os
import time
from pathlib import Path

from secateur.errors import CorpusError

NOTE = "place.txt"


def prepare(shared: object) -> object:
    return shared


def write_large(shared: object, part: int, folder: Path, threads: int) -> None:
    """A file of many pieces, an empty one, and one in a folder."""
    (folder / "inner").mkdir()
    (folder / "large.bin").write_bytes(bytes([part]) * 50_000_000)
    (folder / "empty").write_bytes(b"")
    (folder / "inner" / "small.txt").write_text(str(part))
    if not (marker := Path(str(shared)) / f"tried-{part}").exists():
        marker.touch()
        time.sleep(0.5)


def note_place(shared: object, part: int, folder: Path, threads: int) -> None:
    """Which process it is, with which GPUs and threads; the first waits for a second."""
    home = Path(str(shared))
    (home / f"here-{os.getpid()}").touch()
    for _ in range(1200):
        if len(list(home.glob("here-*"))) > 1:
            break
        time.sleep(0.1)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    (folder / NOTE).write_text(f"{os.getpid()} {gpus} {threads}")


def die(shared: object, part: int, folder: Path, threads: int) -> None:
    """Lose the worker, every time that part 1 is made."""
    if part == 1:
        (Path(str(shared)) / f"{time.time_ns()}").touch()
        os._exit(1)


def refuse(shared: object, part: int, folder: Path, threads: int) -> None:
    """An error of ours for part 0; the other takes long."""
    if part == 0:
        raise CorpusError("row 7 is empty: drop it")
    time.sleep(600)


class Idle:
    """Another's actor, which has cores and does nothing with them."""

    def wait(self) -> None:
        """Return when it is there."""
