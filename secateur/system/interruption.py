"""Ctrl-C in the middle of long work: what is kept, and how to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

GO_ON = "the same command goes on there"


@contextmanager
def explained(sentence: Callable[[], str | None]) -> Iterator[None]:
    """Where the block is interrupted, the sentence says what is kept of it (None: nothing).

    It is a note of the KeyboardInterrupt; that of the outermost block is what a person is told.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        if (said := sentence()) is not None:
            error.add_note(said)
        raise


def what_is_kept(error: KeyboardInterrupt) -> str | None:
    """The outermost sentence about work that was interrupted."""
    notes: list[str] = getattr(error, "__notes__", [])
    return notes[-1] if notes else None
