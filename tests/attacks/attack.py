"""What an attack is: files that a stranger made, the command that reads them, what must happen."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 30
"""Seconds of processor time that a case may take."""
MEMORY = 2 << 30
"""Bytes that a case may take, beside what the process has."""


@dataclass(frozen=True)
class Goods:
    """Good files, of which bad ones are made: read only."""

    model: Path
    corpus: Path
    stats: Path
    made: Path

    @property
    def gguf(self) -> Path:
        return next(self.made.glob("*Q8_0.gguf"))

    def places(self, room: Path) -> dict[str, Path]:
        """What the words in braces of a command stand for."""
        return {
            "room": room, "out": room / "new", "model": self.model, "corpus": self.corpus,
            "stats": self.stats, "made": self.made, "plan": self.made / "plan.json",
            "imatrix": self.made / "imatrix.gguf", "gguf": self.gguf,
        }  # fmt: skip


@dataclass(frozen=True)
class Attack:
    """`make(goods, room)` writes the files; `words` have to be in the one line that is said.

    `code` 0 is for what has to be taken as harmless; then `words` are in the result, and `never`
    is nowhere, neither on the terminal nor in a file.
    """

    name: str
    make: Callable[[Goods, Path], object]
    command: str
    words: tuple[str, ...] = ()
    code: int = 2
    never: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a command did: `seconds` of processor time, `memory` in bytes beside what there was."""

    code: int
    out: str
    err: str
    seconds: float
    memory: int


def copy_model(goods: Goods, room: Path) -> Path:
    """The good model as `model` in a room."""
    return Path(shutil.copytree(goods.model, room / "model"))


def edit_json(path: Path, change: Callable[[Any], object] | Mapping[str, Any]) -> None:
    """Change a JSON file: by a function, or with new values of its keys."""
    data = json.loads(path.read_text("utf-8"))
    if isinstance(change, Mapping):
        data.update(change)
    else:
        change(data)
    path.write_text(json.dumps(data), "utf-8")


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the header of a safetensors file and leave its data."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def sparse(path: Path, size: int, head: bytes = b"") -> None:
    """A file that claims a size and takes no room on the disk."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)


def write(name: str, content: str | bytes) -> Callable[[Goods, Path], object]:
    """An attack's only file."""

    def make(goods: Goods, room: Path) -> None:
        data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        (room / name).write_bytes(data)

    return make


def instead(name: str, how: str) -> Callable[[Goods, Path], object]:
    """Something that is no file under a name: a pipe, a device, a folder, a link to itself."""

    def make(goods: Goods, room: Path) -> None:
        path = room / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if how == "pipe":
            os.mkfifo(path)
        elif how == "folder":
            path.mkdir()
        else:
            path.symlink_to({"endless device": "/dev/zero", "cycle": path.name}[how])

    return make


def in_model(*changes: Callable[[Path], object]) -> Callable[[Goods, Path], object]:
    """Changes of a copy of the good model."""

    def make(goods: Goods, room: Path) -> None:
        folder = copy_model(goods, room)
        for change in changes:
            change(folder)

    return make
