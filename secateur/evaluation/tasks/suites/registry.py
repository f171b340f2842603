"""All suites there are: those of every file of this folder, by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

from secateur.errors import RequestError
from secateur.evaluation.tasks import suites as package
from secateur.evaluation.tasks.suites.base import Suite


def _find() -> dict[str, Suite]:
    found: dict[str, Suite] = {}
    for name in sorted(module.name for module in iter_modules(package.__path__)):
        if name == "registry":
            continue
        for suite in getattr(import_module(f"{package.__name__}.{name}"), "SUITES", ()):
            if suite.name in found:
                raise ValueError(f"the name of a suite, {suite.name!r}, is used twice")
            found[suite.name] = suite
    return found


SUITES: Mapping[str, Suite] = _find()
"""Name -> suite. Importing it raises ValueError when two have one name."""


def find_suite(name: str) -> Suite:
    """The suite of that name. Raises RequestError, with the names that there are."""
    if name not in SUITES:
        raise RequestError(f"there is no suite {name!r:.60}; there are {', '.join(SUITES)}")
    return SUITES[name]
