"""The pages that are made from the code and from benchmarks/*.json: `make reference`.

    python docs/generator/reference.py            writes them
    python docs/generator/reference.py --check    says which are not current; exit code 1

They are docs/reference/*.md, docs/measured.md, docs/criteria.md, the pictures, and the tables of
results in README.md, docs/how-to/which-type.md and one-trillion.md, between two comments.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from command_page import commands
from file_pages import FILES
from machines_page import one_trillion
from measured_pages import criteria_page, measured_page, types_table
from name_page import names
from picture import PICTURES
from python_page import python
from readme_table import readme_table

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FOLDER = DOCS / "reference"

PAGES: Mapping[Path, Callable[[], str]] = {
    **{FOLDER / f"{name}.md": make for name, make in FILES.items()},
    FOLDER / "commands.md": commands,
    FOLDER / "names.md": names,
    FOLDER / "python.md": python,
    DOCS / "measured.md": measured_page,
    DOCS / "criteria.md": criteria_page,
}
"""{file: its text}"""

TABLES: Mapping[Path, Callable[[], str]] = {
    ROOT / "README.md": readme_table,
    DOCS / "how-to" / "which-type.md": types_table,
    DOCS / "how-to" / "one-trillion.md": one_trillion,
}
"""{file: the table between its comments}"""

HEAD = "<!-- made by `make reference` from the code and benchmarks/*.json: change it there -->\n\n"
BEGIN, END = "<!-- results: made by `make reference` -->", "<!-- end of results -->"


def pages() -> dict[Path, str]:
    """Every page with its text."""
    made = {path: HEAD + make() for path, make in PAGES.items()}
    for path, make in TABLES.items():
        text = path.read_text("utf-8")
        begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        made[path] = f"{text[:begin]}\n{make()}\n{text[end:]}"
    return made


def differences() -> list[Path]:
    """The pages that are missing or not current, and those that are too many."""
    made = pages()
    changed = [p for p, text in made.items() if not p.is_file() or p.read_text("utf-8") != text]
    stale = [picture.path for picture in PICTURES if not picture.is_current]
    return changed + stale + sorted(set(FOLDER.glob("*.md")) - set(made))


def main() -> None:
    if sys.argv[1:] == ["--check"]:
        for path in (found := differences()):
            print(f"{path} is not current: make reference")
        sys.exit(1 if found else 0)
    for path in set(FOLDER.glob("*.md")) - set(PAGES):
        path.unlink()
    for path, text in pages().items():
        path.write_text(text, "utf-8")
    for picture in PICTURES:
        if not picture.is_current:
            picture.write()


if __name__ == "__main__":
    main()
