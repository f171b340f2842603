"""A folder of evidence alone: what a server, or a log, made of tasks, kept with its lock.

    DIR/manifest.json             "asked": what was asked, beside what, and the limits; the hash of
                                  every file
    DIR/evidence/tasks.json       as in an output (release.evidence)
    DIR/evidence/tasks/...        every question and what came of it
    DIR/evidence/pictures/*.svg   where they were asked for
    DIR/report.md, report.html    its pages, rendered from these files and in no manifest

It has no plan and no weights. Where a server serves an artefact of an output, evidence can go into
that output instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur import __version__
from secateur.errors import OutputError
from secateur.evaluation.gate import Gate, Verdict, judge_gates, parse_gate
from secateur.release.evidence import (
    KINDS,
    Evidence,
    Items,
    asked_of_artefacts,
    read_evidence,
    write_evidence,
)
from secateur.release.html.asked_page import pictures_of, render_asked_page
from secateur.release.html.files import render_picture
from secateur.release.manifest import MANIFEST, Difference, read_manifest, write_manifest
from secateur.release.pages import (
    PAGE,
    TEXT,
    checked_pages,
    compare_pages,
    readable,
    save_pictures,
)
from secateur.release.report import evidence_to_markdown
from secateur.system.atomic import write_text
from secateur.system.workdir import complete_or_absent

ASKED = "asked"
"""The key of a manifest that says that a folder holds evidence alone."""


@dataclass(frozen=True)
class AskedResults:
    """What a folder holds: who was asked, beside whom, what came of it, and the limits to it."""

    target: str
    against: str | None
    evidence: tuple[Evidence, ...]
    gates: tuple[Gate, ...] = ()

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        return judge_gates(self.gates, asked_of_artefacts(self.evidence))

    def render(self, name: str) -> str:
        """One of the pages: report.html or report.md. Raises OutputError."""
        with readable(f"the evidence of {self.target}"):
            if name == PAGE:
                return render_asked_page(self.target, self.against, self.evidence, self.verdicts)
            return evidence_to_markdown(f"Tasks of {self.target}", self.evidence, self.verdicts)


def write_asked_folder(
    path: Path, evidence: Evidence, items: Items, asked: Mapping[str, Any]
) -> None:
    """Write evidence as a folder of its own, complete or absent. `asked` says who was asked, and
    the `gates` as they were given.

    Raises OutputError when `path` exists, WriteError.
    """
    with complete_or_absent(path) as folder:
        write_manifest(folder, {ASKED: dict(asked)})
        write_evidence(folder, evidence, items)
        write_asked_pages(folder)


def write_asked_pages(folder: Path, *, pictures: bool = False) -> tuple[Path, ...]:
    """Render the pages of a folder of evidence again, with `pictures` those as SVG files, too.

    Raises OutputError, WriteError.
    """
    results = read_asked(folder)
    for name in (TEXT, PAGE):
        write_text(folder / name, results.render(name))
    drawn: tuple[str, ...] = ()
    if pictures:
        found = pictures_of(results.evidence)
        drawn = save_pictures(folder, {one.name: render_picture(one) for one in found})
    return tuple(folder / name for name in (TEXT, PAGE, *drawn))


def check_asked_pages(folder: Path) -> tuple[Difference, ...]:
    """How the pages differ from what the evidence gives, which is as the manifest says. Raises
    OutputError."""
    results = read_asked(folder)
    pages = {name: results.render(name) for name in checked_pages(folder)}
    return compare_pages(folder, pages, f"{MANIFEST} and evidence/")


def read_asked(folder: Path) -> AskedResults:
    """What a folder of evidence alone holds. Raises OutputError."""
    asked = read_manifest(folder)[ASKED]
    found = (read_evidence(folder, kind) for kind in KINDS)
    try:
        return AskedResults(
            str(asked["target"]),
            None if asked["against"] is None else str(asked["against"]),
            tuple(one for one in found if one is not None),
            tuple(parse_gate(str(gate)) for gate in asked.get("gates", ())),
        )
    except (KeyError, TypeError):
        raise OutputError(
            f"{folder / MANIFEST} does not say who was asked: measure it again"
        ) from None


def is_asked_folder(path: Path) -> bool:
    """Whether a folder holds evidence alone."""
    if not (path / MANIFEST).is_file():
        return False
    try:
        return isinstance(read_manifest(path).get(ASKED), dict)
    except OutputError:
        return False


def is_of_this_version(folder: Path) -> bool:
    """Whether this version wrote a folder of evidence: another's pages may be other ones."""
    return read_manifest(folder).get("secateur") == __version__
