"""Quality gates: a limit to a metric, and the verdict (GateError, exit code 3).

kl_mean<=0.1    top1_agreement>=0.9    kl_p99<=1.5
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secateur.errors import GateError, InputError
from secateur.evaluation.measurement import Measurement, require_measurement
from secateur.evaluation.metrics.registry import gate_names, metric_named

_SIGNS = {"lower": "<=", "higher": ">="}
_FORM = re.compile(r"\s*([\w.]+)\s*(<=|>=)\s*(\S+)\s*")


@dataclass(frozen=True, slots=True)
class Gate:
    """A limit to the pooled number of a metric: at most it where lower is better, else at least."""

    metric: str
    limit: float

    def __str__(self) -> str:
        """As `parse_gate` reads it."""
        return f"{self.metric}{_SIGNS[metric_named(self.metric).better or 'lower']}{self.limit:g}"

    def is_met(self, value: float) -> bool:
        """Whether the number is within the limit; NaN is not."""
        if metric_named(self.metric).better == "higher":
            return value >= self.limit
        return value <= self.limit


def make_gate(metric: str, limit: float) -> Gate:
    """A checked gate. Raises InputError for a metric that is none, and for a limit that is NaN."""
    if not metric_named(metric).is_gate:
        raise InputError(
            f"{metric} cannot be a gate, because neither less nor more of it is better: "
            f"limits can be set to {', '.join(gate_names())}"
        )
    if math.isnan(limit):
        raise InputError(f"the limit of {metric} is not a number: give one")
    return Gate(metric, limit)


def parse_gate(text: str) -> Gate:
    """`kl_mean<=0.1` as a gate. Raises InputError for anything else."""
    found = _FORM.fullmatch(text)
    number = _number(found[3]) if found else None
    if found is None or number is None:
        raise InputError(
            f"a gate is METRIC<=NUMBER or METRIC>=NUMBER, such as kl_mean<=0.1; got {text[:80]!r}"
        )
    gate = make_gate(found[1], number)
    sign = _SIGNS[metric_named(gate.metric).better or "lower"]
    if found[2] != sign:
        raise InputError(
            f"{gate.metric} is better {metric_named(gate.metric).better}, so its gate is "
            f"{gate.metric}{sign}NUMBER; got {text[:80]!r}"
        )
    return gate


def check_gates(gates: Sequence[Gate], artefacts: Mapping[str, Sequence[Measurement]]) -> None:
    """Check the pooled numbers of the main kind, {artefact: its measurements}, against limits.

    Raises GateError, with every number that misses its limit, and InputError when a number that
    has a limit was not measured.
    """
    missed: list[str] = []
    for artefact, measurements in artefacts.items():
        for gate in gates:
            found = require_measurement(measurements, gate.metric)
            if not gate.is_met(found.value):
                missed.append(f"{artefact}: {found}, but the limit is {gate}")
    if missed:
        raise GateError("the quality gate is not met: " + "; ".join(missed))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
