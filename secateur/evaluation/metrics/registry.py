"""All metrics there are: those of every file in this folder, in the order of the files' names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from secateur.errors import InputError
from secateur.evaluation import metrics as package
from secateur.evaluation.metrics.base import Metric, TokenArray


@cache
def all_metrics() -> tuple[Metric, ...]:
    """The metrics, in the order in which reports show them.

    Raises ValueError when two have one name, or one needs an array that no file computes.
    """
    found = _collect("METRICS")
    known = {array.name for array in token_arrays()}
    for metric in found:
        missing = set(metric.statistic.needs) - known
        if missing:
            raise ValueError(f"metric {metric.name!r} needs {sorted(missing)}, which is no array")
    return tuple(found)


@cache
def token_arrays() -> tuple[TokenArray, ...]:
    """The numbers that are kept of every scored token. Raises ValueError for a name used twice."""
    return tuple(_collect("ARRAYS"))


@cache
def arrays_sha256() -> str:
    """Of the code of the files that compute arrays: kept numbers of other code are not used."""
    digest = hashlib.sha256()
    for module in _modules():
        if hasattr(module, "ARRAYS") and module.__file__ is not None:
            digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()


def metric_named(name: str) -> Metric:
    """The metric of that name. Raises InputError, with the names there are, when there is none."""
    for metric in all_metrics():
        if metric.name == name:
            return metric
    names = ", ".join(metric.name for metric in all_metrics())
    raise InputError(f"there is no metric {name!r}: the metrics are {names}")


def gate_names() -> tuple[str, ...]:
    """The metrics to which a limit may be set."""
    return tuple(metric.name for metric in all_metrics() if metric.is_gate)


def _collect(attribute: str) -> list[Any]:
    found: list[Any] = []
    for module in _modules():
        for entry in getattr(module, attribute, ()):
            if any(entry.name == other.name for other in found):
                raise ValueError(f"{attribute} of {module.__name__}: {entry.name!r} is used twice")
            found.append(entry)
    return found


def _modules() -> Iterator[ModuleType]:
    own = __name__.rpartition(".")[2]
    for name in sorted(module.name for module in iter_modules(package.__path__)):
        if name not in (own, "base"):
            yield import_module(f"{package.__name__}.{name}")
