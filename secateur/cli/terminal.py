"""What reaches the terminal: results on stdout, notes and errors on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any, NoReturn


def show(data: Any, lines: list[str], as_json: bool) -> None:
    """Print a result: `data` as one JSON document, or `lines` for people."""
    if as_json:
        sys.stdout.write(json.dumps(data, indent=1, ensure_ascii=False, default=str) + "\n")
    else:
        write_lines(lines)


def note(sentence: str) -> None:
    """A sentence on stderr for the person who waits."""
    sys.stderr.write(f"{sentence}\n")


def write_lines(lines: list[str]) -> None:
    """Print lines on stdout."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


LONGEST = 4000
"""Characters of an error at most, should a file's content get into one after all."""


def exit_with(message: str, code: int) -> NoReturn:
    """Say why in one line on stderr, and exit. A line of more than LONGEST characters is cut."""
    line = " ".join(message[: 2 * LONGEST].split())
    sys.stderr.write(f"secateur: {line if len(line) <= LONGEST else f'{line[:LONGEST]} ...'}\n")
    sys.exit(code)
