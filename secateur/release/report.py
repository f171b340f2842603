"""The report: what an output is, how it was made, and what it lost. As JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from secateur import __version__
from secateur.errors import OutputError
from secateur.evaluation.measurement import POOLED, Measurement, gate, measurement_from_json
from secateur.system.atomic import write_text

REPORT = "report.json"
REPORT_TEXT = "report.md"

COLUMNS = (
    ("kl_mean", "mean KL"),
    ("kl_median", "median KL"),
    ("kl_p99", "p99 KL"),
    ("top1_agreement", "top-1 agreement"),
    ("perplexity", "perplexity"),
    ("perplexity_original", "original's perplexity"),
)
"""Measurements shown in the table of domains: name, title."""

SUMMARY = {
    "kl_mean": "mean KL",
    "top1_agreement": "top-1 agreement",
    "perplexity_ratio": "perplexity, times the original's",
}
"""Pooled measurements shown beside the sizes: name, title."""


@dataclass(frozen=True)
class ArtefactReport:
    """One artefact (a checkpoint folder, a GGUF file) and its measurements."""

    name: str
    bytes: int
    measurements: tuple[Measurement, ...]

    def value(self, name: str, domain: str = POOLED, kind: str = "answers") -> Measurement | None:
        """The measurement of that name, None when it was not made."""
        for entry in self.measurements:
            if (entry.name, entry.domain, entry.kind) == (name, domain, kind):
                return entry
        return None

    @property
    def groups(self) -> list[tuple[str, str]]:
        """(kind, domain) of all measurements, in the order they were made."""
        return list(dict.fromkeys((entry.kind, entry.domain) for entry in self.measurements))


@dataclass(frozen=True)
class Report:
    """What was made of which model, and what each artefact lost against it.

    `made` holds the facts of the manifest (empty for an artefact that is not ours), `sizes`
    {format: {"predicted", "written"}} in bytes; `answers` says what was measured on.
    """

    original: str
    original_bytes: int
    made: Mapping[str, Any] = field(repr=False)
    sizes: Mapping[str, Mapping[str, int]]
    answers: Mapping[str, Any]
    artefacts: tuple[ArtefactReport, ...]
    notes: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)

    def check_gate(self) -> None:
        """Raise GateError when an artefact misses a limit (`max_mean_kl`, `min_top1`)."""
        if self.limits:
            for artefact in self.artefacts:
                gate(artefact.measurements, **self.limits)

    def to_json(self) -> dict[str, Any]:
        """As JSON; `report_from_json` reads it."""
        return {
            "secateur": __version__,
            "original": self.original,
            "original_bytes": self.original_bytes,
            "made": dict(self.made),
            "sizes": {form: dict(sizes) for form, sizes in self.sizes.items()},
            "answers": dict(self.answers),
            "artefacts": [
                {
                    "name": artefact.name,
                    "bytes": artefact.bytes,
                    "measurements": [entry.to_json() for entry in artefact.measurements],
                }
                for artefact in self.artefacts
            ],
            "notes": list(self.notes),
            "limits": dict(self.limits),
        }


def report_from_json(data: Mapping[str, Any]) -> Report:
    """The report that `to_json` described. Raises OutputError when it is none."""
    try:
        return Report(
            original=data["original"],
            original_bytes=data["original_bytes"],
            made=data["made"],
            sizes=data["sizes"],
            answers=data["answers"],
            artefacts=tuple(
                ArtefactReport(
                    entry["name"],
                    entry["bytes"],
                    tuple(measurement_from_json(m) for m in entry["measurements"]),
                )
                for entry in data["artefacts"]
            ),
            notes=tuple(data["notes"]),
            limits=data["limits"],
        )
    except (KeyError, TypeError) as error:
        raise OutputError(f"not a report of secateur ({error!r}): measure again") from None


def write_report(report: Report, folder: Path) -> None:
    """Write report.json and report.md into `folder`, each complete or absent."""
    texts = {
        REPORT: json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n",
        REPORT_TEXT: to_markdown(report),
    }
    for name, text in texts.items():
        write_text(folder / name, text)


def to_markdown(report: Report) -> str:
    """The report as Markdown tables."""
    template = (resources.files(__package__) / "report.md.jinja").read_text("utf-8")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = _cell
    environment.filters["thousands"] = lambda number: f"{number:,}"
    return environment.from_string(template).render(
        report=report, summary=SUMMARY, columns=COLUMNS, rows=list(_rows(report))
    )


def _rows(report: Report) -> Iterable[tuple[ArtefactReport, str, str, list[Measurement | None]]]:
    for artefact in report.artefacts:
        for kind, domain in artefact.groups:
            found = [artefact.value(name, domain, kind) for name, _ in COLUMNS]
            yield artefact, kind, domain, found


def _cell(entry: Measurement | None) -> str:
    if entry is None:
        return "-"
    spread = "" if entry.low is None else f" [{entry.low:.4g}, {entry.high:.4g}]"
    return f"{entry.value:.4g}{spread}"
