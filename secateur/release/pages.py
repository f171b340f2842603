"""The pages of an output: report.md and report.html, rendered from its files and nothing else.

They show the times of one run, so they are in no manifest; but `verify` renders them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from jinja2 import UndefinedError

from secateur import __version__
from secateur.errors import InputError, OutputError
from secateur.outputs.apply import PLAN
from secateur.release.evidence import FOLDER
from secateur.release.html.files import render_pictures
from secateur.release.html.layout import drawn_with
from secateur.release.html.page import render_page
from secateur.release.manifest import RUN, Difference, amend_manifest, read_manifest
from secateur.release.report import REPORT, to_markdown
from secateur.release.results import Results, read_results
from secateur.system.atomic import write_text
from secateur.system.text_files import read_json

PAGE, TEXT = "report.html", "report.md"
PICTURES = f"{FOLDER}/pictures"
_SOURCES = f"{REPORT} and {RUN}"
_DRAWN_WITH = '<meta name="drawn-with" content="'


def write_pages(out: Path) -> None:
    """Write report.md and report.html of a measured output, each complete or as it was.

    Raises OutputError when its results cannot be read, WriteError.
    """
    results = read_results(out)
    for name in (TEXT, PAGE):
        write_text(out / name, _render(results, name))


def write_pictures(out: Path) -> tuple[str, ...]:
    """Write the pictures of report.html as SVG files of the output, and list them in its manifest;
    returns their names, such as `evidence/pictures/experts.svg`.

    Raises OutputError when its results cannot be read, WriteError.
    """
    return save_pictures(out, render_pictures([read_results(out)]))


def save_pictures(out: Path, drawn: Mapping[str, str]) -> tuple[str, ...]:
    """Write pictures, {name: SVG}, in the place of older ones, and list them in the manifest;
    returns their names in the folder. Raises WriteError."""
    names = tuple(f"{PICTURES}/{name}.svg" for name in drawn)
    old = {path.relative_to(out).as_posix() for path in (out / PICTURES).glob("*.svg")}
    for name, svg in zip(names, drawn.values(), strict=True):
        write_text(out / name, svg)
    for name in old - set(names):
        (out / name).unlink()
    amend_manifest(out, names, gone=old - set(names))
    return names


def check_pages(out: Path) -> tuple[Difference, ...]:
    """How the pages differ from what the results give.

    For an output whose listed files are as its manifest says, and of this version.
    """
    try:
        results = read_results(out)
        pages = {name: _render(results, name) for name in checked_pages(out)}
    except InputError:  # one of the sources no longer holds what we write
        return tuple(_changed(name, _SOURCES) for name in checked_pages(out))
    return compare_pages(out, pages, _SOURCES)


def compare_pages(out: Path, pages: Mapping[str, str], sources: str) -> tuple[Difference, ...]:
    """How the pages in a folder differ from those, {name: text}, that its `sources` give."""
    found = (_compare(out / name, text, sources) for name, text in pages.items())
    return tuple(difference for difference in found if difference is not None)


def checked_pages(out: Path) -> tuple[str, ...]:
    """The pages that can be compared: other versions of the libraries draw another report.html."""
    page = out / PAGE
    if not page.is_file():
        return (TEXT, PAGE)
    with page.open(encoding="utf-8", errors="replace") as file:
        head = file.read(2000)
    drawn = head.partition(_DRAWN_WITH)[2].partition('"')[0]
    return (TEXT, PAGE) if drawn in ("", drawn_with()) else (TEXT,)


def is_source(name: str) -> bool:
    """Whether a listed file of an output is one that its pages are made from."""
    return name in (REPORT, PLAN) or name.startswith(f"{FOLDER}/")


def is_rendered(out: Path) -> bool:
    """Whether an output has a report that this version can render again: another version's page
    may be another one. Raises OutputError when the manifest or report.json cannot be read."""
    if REPORT not in read_manifest(out)["files"]:
        return False
    data = read_json(out / REPORT, "the report of an output", OutputError)
    return isinstance(data, dict) and data.get("secateur") == __version__


def _compare(path: Path, text: str, sources: str) -> Difference | None:
    if not path.is_file():
        return Difference(path.name, "missing", "is missing")
    return None if path.read_bytes() == text.encode() else _changed(path.name, sources)


def _changed(name: str, sources: str) -> Difference:
    return Difference(name, "changed", f"is not what {sources} give")


def _render(results: Results, name: str) -> str:
    if name == PAGE:
        return page_of([results])
    with readable(_named([results])):
        return to_markdown(results.report, results.runs, tuple(results.evidence.values()))


def page_of(outputs: Sequence[Results]) -> str:
    """The page about one or several outputs (`render_page`). Raises InputError, also for results
    that hold another kind of value than we write."""
    with readable(_named(outputs)):
        return render_page(outputs)


def _named(outputs: Sequence[Results]) -> str:
    names = ", ".join(results.name for results in outputs)
    return f"{REPORT}, {RUN} or the evidence of {names}"


@contextmanager
def readable(files: str) -> Iterator[None]:
    """What is wrong with a value deep in the results is said of the `files` that hold them.

    Raises OutputError.
    """
    try:
        yield
    except (UndefinedError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise OutputError(
            f"{files} is not what secateur wrote: a value in it is of another kind; measure again"
        ) from None
