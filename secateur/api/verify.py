"""`verify`: compare an output with its manifest, and its pages with what they are made from."""

from __future__ import annotations

from pathlib import Path

from secateur.api.models import File
from secateur.release import manifest
from secateur.release.manifest import Difference
from secateur.system.progress import Progress, no_progress


def verify(out: File, progress: Progress = no_progress) -> tuple[Difference, ...]:
    """Compare an output with its manifest, and report.md and report.html with what its results
    give; empty when all is as it was written. run.json and times of speed are not compared, nor
    pages of another version.
    """
    out = Path(out)
    found = manifest.verify(out, progress)
    if _has_asked(out, found):
        from secateur.release.asked_folder import check_asked_pages

        return (*check_asked_pages(out), *found)
    if _has_report(out, found):
        from secateur.release.pages import check_pages

        found = (*check_pages(out), *found)
    return found


def unchecked(out: File, found: tuple[Difference, ...]) -> tuple[str, ...]:
    """The files of an output that `verify`, which found this, could compare with nothing."""
    out = Path(out)
    rendered = _checked(out) if _has_report(out, found) or _has_asked(out, found) else ()
    return tuple(name for name in manifest.files_of_one_run(out) if name not in rendered)


def _checked(out: Path) -> tuple[str, ...]:
    from secateur.release.pages import checked_pages

    return checked_pages(out)


def _has_asked(out: Path, found: tuple[Difference, ...]) -> bool:
    """Whether it is a folder of evidence alone, whole and of this version."""
    from secateur.release.asked_folder import is_asked_folder, is_of_this_version

    whole = not any(entry.is_damage for entry in found)
    return whole and is_asked_folder(out) and is_of_this_version(out)


def _has_report(out: Path, found: tuple[Difference, ...]) -> bool:
    """Whether what the pages are made from is whole, and of a version whose pages can be rendered
    here."""
    from secateur.release.pages import is_rendered, is_source

    damaged = (entry.file for entry in found if entry.is_damage)
    return not any(is_source(name) for name in damaged) and is_rendered(out)
