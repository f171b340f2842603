"""`report`: pages of outputs that were measured, rendered again from their results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from secateur.api.models import File
from secateur.errors import OutputError, RequestError
from secateur.release.asked_folder import is_asked_folder, write_asked_pages
from secateur.release.manifest import MANIFEST
from secateur.system.atomic import check_writable, write_text


def report(
    folders: Sequence[File], page: File | None = None, *, pictures: bool = False
) -> tuple[Path, ...]:
    """Render the pages of one output again, or one page about several; returns what was written.

    Each of `folders` is an output or holds outputs. One output gets its own report.md and
    report.html. Of several, which have to come from one original and be measured on the same
    answers, one page is made: `page`, or report.html in the folder that holds them all. `pictures`
    writes the pictures as SVG files, too: into the output's evidence/pictures, else into a folder
    `pictures` beside the page. A folder of evidence alone (`measure URL -o`) is an output here, but
    has a page of its own only. Raises InputError for outputs that were not measured or cannot be
    compared, WriteError.
    """
    apart = [Path(folder) for folder in folders if is_asked_folder(Path(folder))]
    if apart and (len(folders) > 1 or page is not None):
        raise RequestError(
            f"{apart[0]} holds answers to tasks alone, which have a page of their own: report it "
            "alone and without -o; `secateur compare` sets several side by side"
        )
    if apart:
        return write_asked_pages(apart[0], pictures=pictures)
    outs = _outputs([Path(folder) for folder in folders])
    if len(outs) == 1 and page is None:
        return _own_pages(outs[0], pictures)
    if page is None and len(folders) > 1:
        raise RequestError(
            f"{len(outs)} outputs make one page: say where it goes, with -o report.html"
        )
    return _one_page(
        outs, Path(folders[0]) / "report.html" if page is None else Path(page), pictures
    )


def _own_pages(out: Path, pictures: bool) -> tuple[Path, ...]:
    from secateur.release.pages import PAGE, TEXT, write_pages, write_pictures

    write_pages(out)
    drawn = write_pictures(out) if pictures else ()
    return tuple(out / name for name in (TEXT, PAGE, *drawn))


def _one_page(outs: Sequence[Path], page: Path, pictures: bool) -> tuple[Path, ...]:
    from secateur.release.html.files import render_pictures
    from secateur.release.pages import page_of
    from secateur.release.results import read_results

    check_writable(page)
    results = sorted(map(read_results, outs), key=lambda one: (-one.plan.experts, one.name))
    write_text(page, page_of(results))
    written = [page]
    if pictures:
        for name, svg in render_pictures(results).items():
            written.append(page.parent / "pictures" / f"{name}.svg")
            write_text(written[-1], svg)
    return tuple(written)


def _outputs(folders: Sequence[Path]) -> list[Path]:
    """The outputs that are named, or lie in a folder that is."""
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise OutputError(f"{folder} is no folder: name an output, or a folder of outputs")
        inner = [path.parent for path in sorted(folder.glob(f"*/{MANIFEST}"))]
        below = [path for path in inner if not is_asked_folder(path)]
        inside = [folder] if (folder / MANIFEST).is_file() else below
        if not inside:
            raise OutputError(
                f"{folder} is no output of secateur and holds none: name one that `secateur "
                "measure` measured"
            )
        found += [out for out in inside if out not in found]
    return found
