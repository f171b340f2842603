"""What the commands about output folders print for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.errors import OutputError
from secateur.system.sizes import show_bytes

if TYPE_CHECKING:
    from secateur.release.manifest import Problem


def output_lines(out: Path, manifest: Mapping[str, Any]) -> list[str]:
    """The files of an output."""
    files = manifest["files"]
    total = sum(entry["bytes"] for entry in files.values())
    return [
        f"{out}: {len(files)} files, {show_bytes(total)}",
        *(f"  {name}: {show_bytes(entry['bytes'])}" for name, entry in files.items()),
    ]


def refuse_problems(out: Path, problems: Sequence[Problem]) -> None:
    """Raise OutputError that names the first way in which an output differs, if there is one."""
    if not problems:
        return
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    raise OutputError(
        f"{out} is not what its manifest says: {problems[0].file} {problems[0].what}{more}: "
        "make it again"
    )
