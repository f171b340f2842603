"""A folder of evidence alone: what a server, or a log, made of tasks, kept with its lock.

    DIR/manifest.json          "asked": what was asked, and beside what; the hash of every file
    DIR/evidence/tasks.json    as in an output (release.evidence)
    DIR/evidence/tasks/...     every question and what came of it
    DIR/report.md              the tables

It has no plan and no weights. Where a server serves an artefact of an output, evidence can go into
that output instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.errors import OutputError
from secateur.release.evidence import KINDS, Evidence, Items, read_evidence, write_evidence
from secateur.release.manifest import MANIFEST, read_manifest, write_manifest
from secateur.release.report import evidence_to_markdown
from secateur.system.atomic import write_text
from secateur.system.workdir import complete_or_absent

ASKED = "asked"
"""The key of a manifest that says that a folder holds evidence alone."""
TEXT = "report.md"


def write_asked_folder(
    path: Path, evidence: Evidence, items: Items, asked: Mapping[str, Any]
) -> None:
    """Write evidence as a folder of its own, complete or absent. `asked` says who was asked.

    Raises OutputError when `path` exists, WriteError.
    """
    with complete_or_absent(path) as folder:
        write_manifest(folder, {ASKED: dict(asked)})
        write_evidence(folder, evidence, items)
        write_asked_page(folder)


def write_asked_page(folder: Path) -> Path:
    """Render report.md of a folder of evidence again. Raises OutputError, WriteError."""
    asked = read_manifest(folder)[ASKED]
    found = (read_evidence(folder, kind) for kind in KINDS)
    title = f"Tasks of {asked['target']}"
    text = evidence_to_markdown(title, [one for one in found if one is not None])
    write_text(folder / TEXT, text)
    return folder / TEXT


def is_asked_folder(path: Path) -> bool:
    """Whether a folder holds evidence alone."""
    if not (path / MANIFEST).is_file():
        return False
    try:
        return isinstance(read_manifest(path).get(ASKED), dict)
    except OutputError:
        return False
