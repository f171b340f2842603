"""A number that was measured: what it is, what stands behind it, how sure it is.

And the gate that turns such numbers into a verdict (exit code 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from secateur.errors import GateError, InputError

POOLED = "pooled"
"""The domain of a number over all domains together."""

MEAN_KL = "kl_mean"
TOP1 = "top1_agreement"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number of a report.

    `n` says how many samples stand behind it, by their kind: {"answers": 40, "tokens": 8122}.
    `low` and `high` bound the interval of `confidence`, both None where none can be given
    (a maximum; a single answer).
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
        """A mapping that `json` can write; `measurement_from_json` reads it."""
        return {**asdict(self), "n": dict(self.n)}


def measurement_from_json(data: Mapping[str, Any]) -> Measurement:
    """The measurement that `Measurement.to_json` described. Raises InputError if it is none."""
    try:
        found = Measurement(**data)
    except TypeError as error:
        raise InputError(f"not a measurement: {error}; got keys {sorted(data)}") from None
    numbers = (found.value, found.low, found.high)
    if not all(isinstance(number, int | float | None) for number in numbers):
        raise InputError(f"measurement {found.name!r} holds {numbers}, expected numbers")
    return found


def find(
    measurements: Sequence[Measurement], name: str, domain: str = POOLED, kind: str = "answers"
) -> Measurement:
    """The measurement of that name, domain and kind. Raises InputError when there is none."""
    for entry in measurements:
        if (entry.name, entry.domain, entry.kind) == (name, domain, kind):
            return entry
    known = sorted({entry.name for entry in measurements if entry.kind == kind})
    raise InputError(
        f"there is no measurement {name!r} for {domain} {kind}; "
        f"measured were: {', '.join(known) or 'none'}"
    )


def gate(
    measurements: Sequence[Measurement],
    *,
    max_mean_kl: float | None = None,
    min_top1: float | None = None,
) -> None:
    """Check the pooled numbers of the answers against limits; None sets no limit.

    `max_mean_kl` is in nats per token, `min_top1` a fraction. Raises GateError, with every
    number that misses its limit, and InputError when a number that has a limit was not measured.
    """
    failed: list[str] = []
    if max_mean_kl is not None:
        found = find(measurements, MEAN_KL)
        # "not <=" instead of ">": a NaN must not pass.
        if not found.value <= max_mean_kl:
            failed.append(f"{found}: the limit is at most {max_mean_kl:g}")
    if min_top1 is not None:
        found = find(measurements, TOP1)
        if not found.value >= min_top1:
            failed.append(f"{found}: the limit is at least {min_top1:g}")
    if failed:
        raise GateError("the quality gate is not met: " + "; ".join(failed))
