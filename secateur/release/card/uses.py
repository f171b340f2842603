"""What each file is for: the programs that read it, and which file of a ladder to take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from secateur.evaluation.measurement import POOLED
from secateur.release.card.facts import Fact
from secateur.release.card.measured import artefacts_in, find_number, floor_of, main_kind_of
from secateur.release.card.scope import Output, Scope
from secateur.release.card.shown import Shown, show
from secateur.release.report import summary_metrics

PROGRAMS: Mapping[str, str] = {
    "gguf": "llama.cpp, Ollama",
    "mlx": "MLX",
    "safetensors": "transformers, vLLM",
    "mmproj": "llama.cpp, with pictures",
}


@dataclass(frozen=True)
class Use:
    """`programs` read it. Of several files for the same programs `rather` is a smaller one whose
    divergence is no higher; without one it is worth its size, and `worth_it`."""

    programs: str
    rather: Shown | None = None
    worth_it: bool = False


def uses_of(scope: Scope) -> Mapping[str, Use]:
    """{format id: its use} of all outputs.

    Divergence is the first summary metric, and two that differ by the floor or less count as
    equal: the original in another kernel differs as much from itself.
    """
    report = scope.results.report
    measured = {} if report is None else _measured(scope, report)
    floor = 0.0 if report is None else _floor(report)
    return {one.format_id: _use(one, scope, measured, floor) for one in scope.outputs}


def _floor(report: Fact) -> float:
    found = floor_of(report)
    return 0.0 if found is None else float(found.value["value"])


def _measured(scope: Scope, report: Fact) -> dict[str, tuple[Fact, float]]:
    """{format id: (its artefact, its divergence)}."""
    metric = summary_metrics()[0].name
    found = {}
    for artefact in artefacts_in(scope, report):
        show(artefact["bytes"], "size")  # refuses what is no number
        entry = find_number(artefact, metric, POOLED, main_kind_of(artefact))
        owner = next(one for one in scope.outputs if one.owns(artefact.value["name"]))
        if entry is not None:
            found[owner.format_id] = artefact, float(entry.value["value"])
    return found


def _use(
    output: Output, scope: Scope, measured: Mapping[str, tuple[Fact, float]], floor: float
) -> Use:
    programs = PROGRAMS.get(output.to, output.to)
    beside = [
        measured[one.format_id]
        for one in scope.of(output.to)
        if one is not output and one.format_id in measured
    ]
    if output.format_id not in measured or not beside:
        return Use(programs)
    artefact, own = measured[output.format_id]
    smaller = [
        (other, lost)
        for other, lost in beside
        if other.value["bytes"] < artefact.value["bytes"] and lost <= own + floor
    ]
    if not smaller:
        return Use(programs, worth_it=True)
    rather = min(smaller, key=lambda pair: pair[1])[0]
    return Use(programs, show(rather["name"], "code"))
