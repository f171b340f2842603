"""What models did when they were asked: each kind of evidence that a request wants, in turn."""

from __future__ import annotations

from pathlib import Path

from secateur.api.held_out import calibrated_text_of
from secateur.api.loops import measure_loops
from secateur.api.measuring import Measuring
from secateur.api.speed import measure_speed
from secateur.api.subjects import AskedOutput
from secateur.api.tasks import measure_tasks
from secateur.release.evidence import Evidence, Items, Kind, write_evidence


def gather_evidence(
    asked: AskedOutput, request: Measuring, out: Path | None
) -> tuple[Evidence, ...]:
    """Ask for every kind, and write it into `out` where that is an output of ours.

    Each kind is written as soon as it is whole. Raises RequestError, EngineError, WriteError.
    """
    found: list[Evidence] = []
    for kind in request.kinds:
        evidence, items = _measure(kind, asked, request, out)
        if out is not None:
            write_evidence(out, evidence, items)
        found.append(evidence)
    return tuple(found)


def _measure(
    kind: Kind, asked: AskedOutput, request: Measuring, out: Path | None
) -> tuple[Evidence, Items]:
    if kind == "tasks" and request.tasks is not None:
        calibrated = None if out is None else calibrated_text_of(out)
        return measure_tasks(asked, request.tasks, calibrated)
    if kind == "loops" and request.loops is not None:
        return measure_loops(asked, request.loops)
    assert request.speed is not None
    return measure_speed(asked, request.speed)
