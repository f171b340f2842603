"""Whether report.md is what report.json and run.json give.

It is in no manifest, because it shows the times of one run; but it is rendered from the two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from secateur import __version__
from secateur.errors import OutputError
from secateur.evaluation.measurement import Measurement
from secateur.release.manifest import RUN, Difference, read_manifest
from secateur.release.report import REPORT, REPORT_TEXT, ArtefactReport, Report, to_markdown
from secateur.release.run_record import read_runs
from secateur.system.text_files import read_json


def check_report_text(folder: Path) -> Difference | None:
    """How report.md differs from what report.json and run.json give; None where it does not.

    For an output whose report.json is as its manifest says, and of this version (`is_rendered`).
    """
    path = folder / REPORT_TEXT
    if not path.is_file():
        return Difference(REPORT_TEXT, "missing", "is missing")
    try:
        report = _report_of(json.loads((folder / REPORT).read_bytes()))
        rendered = to_markdown(report, read_runs(folder))
    except (UndefinedError, ValueError, TypeError, KeyError, AttributeError):
        rendered = None  # one of the two no longer holds what we write
    if rendered is not None and path.read_bytes() == rendered.encode():
        return None
    return Difference(REPORT_TEXT, "changed", f"is not what {REPORT} and {RUN} give")


def is_rendered(folder: Path) -> bool:
    """Whether an output has a report that this version can render again: another version's page
    may be another one. Raises OutputError when the manifest or report.json cannot be read."""
    if REPORT not in read_manifest(folder)["files"]:
        return False
    data = read_json(folder / REPORT, "the report of an output", OutputError)
    return isinstance(data, dict) and data.get("secateur") == __version__


def _report_of(data: Mapping[str, Any]) -> Report:
    """The report of a report.json, without its limits, which report.md does not show."""
    return Report(
        original=data["original"],
        original_bytes=data["original_bytes"],
        answers=data["answers"],
        artefacts=tuple(
            ArtefactReport(
                artefact["name"],
                artefact["bytes"],
                tuple(Measurement(**entry) for entry in artefact["measurements"]),
            )
            for artefact in data["artefacts"]
        ),
        made=data["made"],
        sizes=data["sizes"],
        pruned={int(layer): tuple(experts) for layer, experts in data["pruned"].items()},
        notes=tuple(data["notes"]),
        floor=tuple(Measurement(**entry) for entry in data["floor"]),
    )
