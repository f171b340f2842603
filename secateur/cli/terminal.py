"""What reaches the terminal: results on stdout, notes and errors on stderr."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from secateur.cli.plain_text import plain_json, plain_text
from secateur.cli.render.table import Table, plain_lines, print_on_terminal
from secateur.errors import SecateurError
from secateur.system.interruption import what_is_kept
from secateur.system.secret_words import hide_secrets

if TYPE_CHECKING:
    import logging

LOGGER = "secateur"
"""The name of the logger whose level is how much is told."""


class Interrupted(SecateurError):
    """Ctrl-C, and what is kept of the work that it ended."""

    exit_code = 130
    """As shells count: 128 and the number of the signal."""

    def __init__(self, error: KeyboardInterrupt) -> None:
        kept = what_is_kept(error)
        super().__init__("interrupted" if kept is None else f"interrupted: {kept}")


def set_detail(verbose: int, *, quiet: bool) -> None:
    """Say how much is told: errors and the result (`quiet`), notes and progress, or more.

    With `verbose` what is done is logged to stderr; with 2 also what libraries log, and errors
    come with their traceback.
    """
    import logging

    levels = (logging.WARNING, logging.INFO, logging.DEBUG)
    ours = logging.getLogger(LOGGER)
    ours.setLevel(logging.ERROR if quiet else levels[min(verbose, 2)])
    if verbose:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_log_format())
        ours.handlers, ours.propagate = [handler], False
        if verbose > 1:
            logging.basicConfig(level=logging.DEBUG, handlers=[handler])


def _log_format() -> logging.Formatter:
    import logging

    class Plain(logging.Formatter):
        """Without secrets, and without what a terminal would obey."""

        def format(self, record: logging.LogRecord) -> str:
            return plain_text(hide_secrets(super().format(record)))

    return Plain("%(asctime)s %(name)s: %(message)s", "%H:%M:%S")


def tells(level: str) -> bool:
    """Whether what has this `level` ("DEBUG", "INFO", "WARNING") is told."""
    import logging

    return logging.getLogger(LOGGER).isEnabledFor(logging.getLevelNamesMapping()[level])


def show(data: Any, lines: Sequence[str | Table], as_json: bool) -> None:
    """Print a result: `data` as one JSON document, or `lines` for people."""
    if as_json:
        text = json.dumps(data, indent=1, ensure_ascii=False, default=str)
        sys.stdout.write(plain_json(text) + "\n")
    else:
        write_lines(lines)


def note(sentence: str) -> None:
    """A sentence on stderr for the person who waits, unless they asked for quiet."""
    if tells("WARNING"):
        sys.stderr.write(f"{plain_text(hide_secrets(sentence))}\n")


def write_lines(lines: Sequence[str | Table]) -> None:
    """Print lines and tables on stdout."""
    if sys.stdout.isatty():
        print_on_terminal(lines)
    else:
        sys.stdout.write(plain_text("".join(f"{line}\n" for line in plain_lines(lines))))


LONGEST = 4000
"""Characters of an error at most, should a file's content get into one after all."""


def exit_with(message: str, code: int) -> NoReturn:
    """Say why in one line on stderr, and exit. A line of more than LONGEST characters is cut."""
    if tells("DEBUG") and sys.exception() is not None:
        sys.stderr.write(plain_text(hide_secrets(traceback.format_exc())))
    line = plain_text(hide_secrets(" ".join(message[: 2 * LONGEST].split())))
    sys.stderr.write(f"secateur: {line if len(line) <= LONGEST else f'{line[:LONGEST]} ...'}\n")
    sys.exit(code)
