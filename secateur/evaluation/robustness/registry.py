"""All detectors there are: those of every file in `detectors/`, in the order of their names."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from secateur.evaluation.robustness import detectors as package
from secateur.evaluation.robustness.detectors.base import Detector


@cache
def all_detectors() -> tuple[Detector, ...]:
    """Every detector. Raises ValueError when two have one name."""
    found: list[Detector] = []
    for name in sorted(module.name for module in iter_modules(package.__path__)):
        module = import_module(f"{package.__name__}.{name}")
        found += getattr(module, "DETECTORS", ())
    names = [detector.name for detector in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the name of a detector, {name!r}, is used twice")
    return tuple(found)
