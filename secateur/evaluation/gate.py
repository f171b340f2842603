"""Quality gates: a limit to a number, and the verdict (GateError, exit code 3).

METRIC[.low|.high][:DOMAIN]<=NUMBER    (or >=, where more is better)

kl_mean<=0.1                    over all domains
kl_p99:code<=1.5                over one domain
accuracy>=0.6                   of every task, each failure counted as wrong
accuracy_difference.low:gsm8k>=-0.02
                                one task; the lower end of the interval, not the number
loop_rate_difference.high<=0.01
generation_speed_ratio>=1.2     in every engine
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from secateur.errors import GateError, InputError
from secateur.evaluation.asked_numbers import asked_numbers, is_relative
from secateur.evaluation.measurement import POOLED, Measurement, main_kind
from secateur.evaluation.metrics.base import Better
from secateur.evaluation.metrics.registry import all_metrics, metric_named
from secateur.evaluation.metrics.registry import gate_names as metric_gates

Bound = Literal["value", "low", "high"]

_SIGNS = {"lower": "<=", "higher": ">="}
_FORM = re.compile(
    r"\s*([\w.]+?)(?:\.(low|high))?\s*(?::\s*([^<>=]*[^<>=\s])\s*)?(<=|>=)\s*(\S+)\s*"
)
_EXAMPLE = "METRIC<=NUMBER or METRIC>=NUMBER, such as kl_mean<=0.1 or accuracy:gsm8k>=0.6"


@dataclass(frozen=True, slots=True)
class Gate:
    """A limit to a number: at most it where lower is better, else at least it.

    `bound` says whether the number itself is meant or an end of its interval. `domain` is a domain
    of the text, a task or an engine; None: all domains together, every task, every engine.
    """

    metric: str
    limit: float
    bound: Bound = "value"
    domain: str | None = None

    def __str__(self) -> str:
        """As `parse_gate` reads it."""
        bound = "" if self.bound == "value" else f".{self.bound}"
        domain = "" if self.domain is None else f":{self.domain}"
        short = f"{self.limit:g}"  # every digit counts: a result keeps its limits as text
        limit = short if float(short) == self.limit else repr(self.limit)
        return f"{self.metric}{bound}{domain}{_SIGNS[_better(self.metric)]}{limit}"

    @property
    def kind(self) -> str | None:
        """What has to be measured: "tasks", "loops" or "speed"; None for divergence."""
        asked = asked_numbers().get(self.metric)
        return None if asked is None else asked.kind

    @property
    def is_relative(self) -> bool:
        """Whether the original has to be asked, too."""
        return self.kind is not None and is_relative(self.metric)

    def is_met(self, value: float) -> bool:
        """Whether a number is within the limit; NaN is not."""
        return value >= self.limit if _better(self.metric) == "higher" else value <= self.limit

    def find(self, measurements: Sequence[Measurement]) -> tuple[Measurement, ...]:
        """The numbers of an artefact that are held to the limit; none where it was not measured."""
        kind, domain = self.kind or main_kind(measurements), self.domain
        if domain is None and self.kind not in ("tasks", "speed"):
            domain = POOLED
        return tuple(
            entry
            for entry in measurements
            if (entry.name, entry.kind) == (self.metric, kind) and domain in (None, entry.domain)
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """A number of an artefact held to a limit; `found` is None where it was not measured."""

    gate: Gate
    artefact: str
    found: Measurement | None

    @property
    def value(self) -> float | None:
        """The number that is compared; None where it was not measured, or has no interval."""
        if self.found is None:
            return None
        values = {"value": self.found.value, "low": self.found.low, "high": self.found.high}
        return values[self.gate.bound]

    @property
    def is_met(self) -> bool:
        return self.value is not None and self.gate.is_met(self.value)

    @property
    def word(self) -> str:
        """What is said of it: met, missed, not measured."""
        if self.value is None:
            return "not measured"
        return "met" if self.is_met else "missed"


def make_gate(metric: str, limit: float, bound: Bound = "value", domain: str | None = None) -> Gate:
    """A checked gate. Raises InputError for a number that there is not, or of which neither less
    nor more is better, and for a limit that is NaN."""
    if metric not in gate_names():
        if metric not in {one.name for one in all_metrics()}:
            names = ", ".join((*(one.name for one in all_metrics()), *asked_numbers()))
            raise InputError(f"there is no metric {metric!r}: the metrics are {names}")
        raise InputError(
            f"{metric} cannot be a gate, because neither less nor more of it is better: "
            f"limits can be set to {', '.join(gate_names())}"
        )
    if math.isnan(limit):
        raise InputError(f"the limit of {metric} is not a number: give one")
    return Gate(metric, limit, bound, domain)


def parse_gate(text: str) -> Gate:
    """`kl_mean<=0.1` as a gate. Raises InputError for anything else."""
    found = _FORM.fullmatch(text)
    number = _number(found[5]) if found else None
    if found is None or number is None:
        raise InputError(f"a gate is {_EXAMPLE}; got {text[:80]!r}")
    bounds: Mapping[str | None, Bound] = {None: "value", "low": "low", "high": "high"}
    gate = make_gate(found[1], number, bounds[found[2]], found[3])
    sign = _SIGNS[_better(gate.metric)]
    if found[4] != sign:
        raise InputError(
            f"{gate.metric} is better {_better(gate.metric)}, so its gate is "
            f"{gate.metric}{sign}NUMBER; got {text[:80]!r}"
        )
    return gate


def gate_names() -> tuple[str, ...]:
    """All numbers to which a limit may be set."""
    return (*metric_gates(), *asked_numbers())


def judge_gates(
    gates: Sequence[Gate], artefacts: Mapping[str, Sequence[Measurement]]
) -> tuple[Verdict, ...]:
    """What comes of every limit, {artefact: its measurements}: a verdict for each number.

    Divergence is measured of every artefact; of what is asked the artefacts that no engine serves
    have no number, and no verdict beside those of others.
    """
    found: list[Verdict] = []
    for gate in gates:
        numbers = {name: gate.find(measurements) for name, measurements in artefacts.items()}
        for name, entries in numbers.items():
            found += [Verdict(gate, name, entry) for entry in entries]
            if not entries and (gate.kind is None or not any(numbers.values())):
                found.append(Verdict(gate, name, None))
    return tuple(found)


def check_gates(gates: Sequence[Gate], artefacts: Mapping[str, Sequence[Measurement]]) -> None:
    """Hold artefacts, {name: its measurements}, to limits.

    Raises GateError, with every number that misses its limit, and InputError when a number that
    has a limit was not measured.
    """
    verdicts = judge_gates(gates, artefacts)
    for verdict in verdicts:
        if verdict.value is None:
            _refuse(verdict, artefacts[verdict.artefact])
    missed = [
        f"{one.artefact}: {one.found}, but the limit is {one.gate}"
        for one in verdicts
        if not one.is_met
    ]
    if missed:
        raise GateError("the quality gate is not met: " + "; ".join(missed))


def check_measured(gates: Sequence[Gate], kinds: Collection[str], original: bool = True) -> None:
    """Raise InputError for a limit to what is not going to be measured: `kinds` are the kinds of
    evidence that there will be, `original` says whether the original is asked."""
    for gate in gates:
        if gate.kind is not None and gate.kind not in kinds:
            named = "--tasks NAME" if gate.kind == "tasks" else f"--{gate.kind}"
            raise InputError(
                f"the gate {gate} is a limit to {gate.kind}, which nothing measures here: add "
                f"{named} ({gate.kind} in a job file), or leave the gate out"
            )
        if gate.is_relative and not original:
            raise InputError(
                f"the gate {gate} is relative to the original, which is not asked: name it, or "
                "leave the gate out"
            )


def _refuse(verdict: Verdict, measurements: Sequence[Measurement]) -> None:
    gate = verdict.gate
    if verdict.found is not None:
        raise InputError(
            f"{gate}: {verdict.artefact} has no interval for {gate.metric} in "
            f"{verdict.found.domain}: hold the number itself to a limit, without .{gate.bound}"
        )
    kind = gate.kind or main_kind(measurements)
    same = [entry for entry in measurements if entry.kind == kind]
    domains = sorted({entry.domain for entry in same if entry.name == gate.metric})
    names = ", ".join(sorted({entry.name for entry in same})) or "none"
    known = f"for {', '.join(domains)} only" if domains else f"measured were: {names}"
    raise InputError(
        f"there is no measurement {gate.metric!r} for {gate.domain or POOLED} {kind} of "
        f"{verdict.artefact}, which the gate {gate} needs; {known}"
    )


def _better(metric: str) -> Better:
    asked = asked_numbers().get(metric)
    return asked.better if asked is not None else metric_named(metric).better or "lower"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
