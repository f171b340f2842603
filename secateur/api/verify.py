"""`verify`: compare an output with its manifest, and its report.md with what it is made from."""

from __future__ import annotations

from pathlib import Path

from secateur.api.models import File
from secateur.release import manifest
from secateur.release.manifest import Difference
from secateur.system.progress import Progress, no_progress


def verify(out: File, progress: Progress = no_progress) -> tuple[Difference, ...]:
    """Compare an output with its manifest, and report.md with what report.json and run.json give;
    empty when all is as it was written. run.json is not compared, nor another version's report.md.
    """
    out = Path(out)
    found = manifest.verify(out, progress)
    if _has_report(out, found):
        from secateur.release.report_check import check_report_text

        page = check_report_text(out)
        found = found if page is None else (page, *found)
    return found


def unchecked(out: File, found: tuple[Difference, ...]) -> tuple[str, ...]:
    """The files of an output that `verify`, which found this, could compare with nothing."""
    out = Path(out)
    rendered = ("report.md",) if _has_report(out, found) else ()
    return tuple(name for name in manifest.files_of_one_run(out) if name not in rendered)


def _has_report(out: Path, found: tuple[Difference, ...]) -> bool:
    """Whether report.json is whole, and of a version whose report.md can be rendered here."""
    from secateur.release.report import REPORT
    from secateur.release.report_check import is_rendered

    return all(entry.file != REPORT for entry in found) and is_rendered(out)
