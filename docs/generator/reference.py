"""The pages of docs/reference, made from the code: `make reference`.

python docs/generator/reference.py            writes them
python docs/generator/reference.py --check    says which are not what the code says, and exits with 1
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from command_page import commands
from file_pages import FILES
from name_page import names

FOLDER = Path(__file__).resolve().parents[1] / "reference"

PAGES: Mapping[str, Callable[[], str]] = {**FILES, "commands": commands, "names": names}
"""{file's stem: its text}"""

HEAD = "<!-- made by `make reference` from the code: change it there -->\n\n"


def pages() -> dict[Path, str]:
    """Every page with its text."""
    return {FOLDER / f"{name}.md": HEAD + make() for name, make in PAGES.items()}


def differences() -> list[Path]:
    """The pages that are missing or not what the code says, and those that are too many."""
    made = pages()
    changed = [p for p, text in made.items() if not p.is_file() or p.read_text("utf-8") != text]
    return changed + sorted(set(FOLDER.glob("*.md")) - set(made))


def main() -> None:
    if sys.argv[1:] == ["--check"]:
        for path in (found := differences()):
            print(f"{path} is not what the code says: make reference")
        sys.exit(1 if found else 0)
    for path in set(FOLDER.glob("*.md")) - set(pages()):
        path.unlink()
    for path, text in pages().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
