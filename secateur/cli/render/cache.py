"""What the command line prints of the cache, and how it reads an age."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from itertools import groupby

from secateur.api.cache import DAY, KeptFile
from secateur.errors import RequestError
from secateur.system.resources import cache_folder
from secateur.system.sizes import show_bytes

_UNITS = {"m": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY}


def cache_lines(files: Sequence[KeptFile]) -> list[str]:
    """A line a file, by model, and the sum."""
    lines = []
    for model, group in groupby(files, key=lambda file: (file.entry.model, file.entry.identity)):
        mine = list(group)
        name = f"{model[0]} ({model[1]})" if model[1] and model[0] != model[1] else model[0]
        lines.append(f"{name or 'of all models'}: {summary_of(mine)}")
        lines += [_line(file) for file in mine]
        lines += [f"    damaged: {file.damage}" for file in mine if file.damage]
    return [*lines, f"{cache_folder()}: {summary_of(files)}"]


def summary_of(files: Sequence[KeptFile]) -> str:
    """`3 files, 43.10 MB`."""
    total = show_bytes(sum(file.entry.bytes for file in files))
    return f"{len(files)} file{'s' * (len(files) != 1)}, {total}"


def read_age(text: str) -> float:
    """Seconds of 12h, 30d or 8w. Raises RequestError for anything else."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([mhdw])", text.strip())
    if found is None:
        raise RequestError(
            f"older-than {text!r}: expected minutes, hours, days or weeks, as in 12h, 30d or 8w"
        )
    return float(found[1]) * _UNITS[found[2]]


def _line(file: KeptFile) -> str:
    entry = file.entry
    cells = (
        f"  {entry.what:<13}",
        f"{show_bytes(entry.bytes):>10}",
        f"{_ago(time.time() - entry.used):>9} ago",
        f"  {entry.path.name}",
        f"  {file.made_by}" if file.made_by else "",
    )
    return "".join(cells).rstrip()


def _ago(seconds: float) -> str:
    for size, name in ((DAY, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"
