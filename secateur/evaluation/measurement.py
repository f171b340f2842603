"""A number that was measured: what it is, what stands behind it, how sure it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any

from secateur.errors import InputError

POOLED = "pooled"
"""The domain of a number over all domains together."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number of a report.

    `n` says how many samples stand behind it, by their kind: {"answers": 40, "tokens": 8122}.
    `low` and `high` bound the interval of `confidence`, both None where none can be given
    (a maximum; too few answers). `kind` is what it was measured on: "answers", "turns" of a corpus,
    "documents", "engine" (the artefact in llama.cpp or mlx-lm), "tasks" (`domain` is the task),
    "loops" (`domain` is that of the prompts) or "speed".
    """

    name: str
    value: float
    unit: str
    n: Mapping[str, int]
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    domain: str = POOLED
    kind: str = "answers"

    def __str__(self) -> str:
        """`kl_mean (code): 0.0123 nats [0.0110, 0.0139] of 40 answers, 8122 tokens`."""
        spread = "" if self.low is None else f" [{self.low:.4g}, {self.high:.4g}]"
        samples = ", ".join(f"{count} {what}" for what, count in self.n.items())
        return f"{self.name} ({self.domain}): {self.value:.4g} {self.unit}{spread} of {samples}"

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json` can write."""
        return {**asdict(self), "n": dict(self.n)}


def read_measurement(data: Mapping[str, Any]) -> Measurement:
    """What `Measurement.to_json` gave. Raises ValueError, KeyError or TypeError for anything else:
    a key too many or too few, a value of another type, a number that is not finite."""
    if set(data) != {entry.name for entry in fields(Measurement)}:
        raise ValueError("a number in it has other keys than those of a measurement")
    bounds = [data[name] for name in ("low", "high", "confidence")]
    numbers = [data["value"], *(bound for bound in bounds if bound is not None)]
    words = [data[name] for name in ("name", "unit", "domain", "kind")]
    if not all(type(number) in (int, float) and isfinite(number) for number in numbers):
        raise ValueError("a value of a measurement is no number")
    if (data["low"] is None) != (data["high"] is None):
        raise ValueError("an interval in it has one end only")
    if not all(isinstance(word, str) for word in words):
        raise ValueError("the name of a measurement is no text")
    if not all(type(count) is int and count >= 0 for count in data["n"].values()):
        raise ValueError("a number of samples is no count")
    return Measurement(**{**data, "n": dict(data["n"])})


def describe_counts(measurements: Iterable[Measurement]) -> str:
    """How many samples stand behind them: `60 answers, 5,029 tokens`; where they differ, the least
    and the most: `6 to 60 answers`."""
    counts: dict[str, list[int]] = {}
    for entry in measurements:
        for what, count in entry.n.items():
            counts.setdefault(what, []).append(count)
    parts = []
    for what, found in counts.items():
        low, high = min(found), max(found)
        parts.append(f"{low:,} {what}" if low == high else f"{low:,} to {high:,} {what}")
    return ", ".join(parts)


def main_kind(measurements: Sequence[Measurement]) -> str:
    """What the numbers that count were measured on: answers, where there are none the turns of a
    corpus, where there are none documents."""
    kinds = {entry.kind for entry in measurements}
    return next((kind for kind in ("answers", "turns", "documents") if kind in kinds), "answers")


def find_measurement(
    measurements: Sequence[Measurement],
    name: str,
    domain: str = POOLED,
    kind: str | None = None,
) -> Measurement | None:
    """The measurement of that name, domain and kind (default: `main_kind`); None when it was not
    made."""
    wanted = kind or main_kind(measurements)
    for entry in measurements:
        if (entry.name, entry.domain, entry.kind) == (name, domain, wanted):
            return entry
    return None


def require_measurement(
    measurements: Sequence[Measurement],
    name: str,
    domain: str = POOLED,
    kind: str | None = None,
) -> Measurement:
    """The same. Raises InputError, with what was measured, when it was not made."""
    found = find_measurement(measurements, name, domain, kind)
    if found is None:
        wanted = kind or main_kind(measurements)
        known = sorted({entry.name for entry in measurements if entry.kind == wanted})
        raise InputError(
            f"there is no measurement {name!r} for {domain} {wanted}; "
            f"measured were: {', '.join(known) or 'none'}"
        )
    return found
