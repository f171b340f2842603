"""All observers that ship, by name: `--observe`, its help and its errors are made from this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from secateur.calibration.observers.base import Observer
from secateur.calibration.observers.sample_norms import SAMPLE_NORMS
from secateur.errors import StatisticsError

OBSERVERS: Mapping[str, Observer] = {one.name: one for one in (SAMPLE_NORMS,)}


def find_observers(names: Sequence[str | Observer]) -> tuple[Observer, ...]:
    """Observers by name, or as they are, each once. Raises StatisticsError for an unknown name."""
    found: dict[str, Observer] = {}
    for name in names:
        if isinstance(name, str) and name not in OBSERVERS:
            raise StatisticsError(
                f"unknown observer {name!r}: choose one of {', '.join(OBSERVERS)}"
            )
        observer = OBSERVERS[name] if isinstance(name, str) else name
        found[observer.name] = observer
    return tuple(found.values())
