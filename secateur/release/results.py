"""Everything that was measured of an output, read back from its files.

What pages and pictures are made of: `report.json`, the evidence beside it, the plan, the statistics
and the runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secateur.errors import OutputError
from secateur.evaluation.gate import parse_gate
from secateur.evaluation.measurement import read_measurement
from secateur.outputs.apply import PLAN
from secateur.planning.document import Plan, read_plan
from secateur.release.evidence import KINDS, Evidence, Kind, read_evidence
from secateur.release.expert_facts import ExpertFacts, expert_facts
from secateur.release.manifest import read_manifest
from secateur.release.report import REPORT, ArtefactReport, Report
from secateur.release.run_record import RunRecord, read_runs
from secateur.system.text_files import explain, read_json

STATISTICS = "evidence/statistics.safetensors"
"""Where an output keeps the statistics of its calibration."""


@dataclass(frozen=True)
class Results:
    """The results of one output, which is called `name` where there are several."""

    name: str
    report: Report
    plan: Plan = field(repr=False)
    experts: ExpertFacts
    evidence: Mapping[Kind, Evidence] = field(default_factory=dict)
    runs: Sequence[RunRecord] = field(default=(), repr=False)

    def format_of(self, artefact: str) -> str:
        """The format id that made an artefact: `gguf-Q4_K_M` of its file."""
        for form, files in self.plan.files.items():
            if artefact == form or artefact in files:
                return form
        return artefact


def read_results(out: Path) -> Results:
    """The results of an output that was measured.

    Raises OutputError when it was not, or when a file is not what we write.
    """
    read_manifest(out)
    found = {kind: read_evidence(out, kind) for kind in KINDS}
    decided = read_plan(out / PLAN)
    return Results(
        name=out.resolve().name,
        report=read_report(out),
        plan=decided,
        experts=expert_facts(decided, out / STATISTICS),
        evidence={kind: one for kind, one in found.items() if one is not None},
        runs=read_runs(out),
    )


def read_report(out: Path) -> Report:
    """The report of an output. Raises OutputError when there is none, or it is not ours."""
    path = out / REPORT
    if not path.is_file():
        raise OutputError(
            f"{out} was not measured: measure it first, with `secateur measure {out} --against "
            "MODEL`"
        )
    data = read_json(path, "the report of an output", OutputError)
    try:
        return _report(data)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OutputError(
            f"{path} is not what secateur wrote ({explain(error)}): measure again"
        ) from None


def _report(data: Mapping[str, Any]) -> Report:
    return Report(
        original=data["original"],
        original_bytes=data["original_bytes"],
        answers=data["answers"],
        artefacts=tuple(
            ArtefactReport(
                artefact["name"],
                artefact["bytes"],
                tuple(read_measurement(entry) for entry in artefact["measurements"]),
            )
            for artefact in data["artefacts"]
        ),
        made=data["made"],
        sizes=data["sizes"],
        pruned={int(layer): tuple(experts) for layer, experts in data["pruned"].items()},
        notes=tuple(data["notes"]),
        floor=tuple(read_measurement(entry) for entry in data["floor"]),
        gates=tuple(parse_gate(gate) for gate in data["gates"]),
    )
