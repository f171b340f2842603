"""Regular expressions of recipes and tensor-type files, which strangers write, too.

Python's own engine can look for hours whether `(.+)+x` meets a name; here the search ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import Any

from secateur.errors import PlanError

SECONDS = 1.0
"""Seconds for one name; a sound pattern takes a hundred-thousandth."""


@dataclass(frozen=True)
class NamePattern:
    """A pattern of tensor names; `pattern` is its text."""

    pattern: str
    _compiled: Any = field(repr=False, compare=False)

    def search(self, name: str) -> bool:
        """Whether it meets any part of a name. Raises PlanError where that takes too long."""
        return self._meets(self._compiled.search, name)

    def fullmatch(self, name: str) -> bool:
        """Whether it meets a whole name. Raises PlanError where that takes too long."""
        return self._meets(self._compiled.fullmatch, name)

    def _meets(self, search: Any, name: str) -> bool:
        try:
            return search(name, timeout=SECONDS) is not None
        except TimeoutError:
            raise PlanError(
                f"the pattern {self.pattern!r:.80} takes more than {SECONDS:g} second for the name "
                f"{name}: write it without a repetition of repetitions"
            ) from None


@lru_cache(maxsize=1024)
def name_pattern(text: str) -> NamePattern:
    """A pattern from its text. Raises ValueError, with the reason, for what is none."""
    regex: Any = import_module("regex")  # when there is a pattern: it takes a while
    try:
        return NamePattern(text, regex.compile(text))
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from None
