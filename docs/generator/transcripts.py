"""The commands of README.md and docs/: found, checked and run as a reader would.

A fenced block of `sh` or `console` holds commands; of `console` those after `$ `, and between them
what they print (`...` stands for anything). What follows the language says how they are run:

    (nothing)   in the page's own folder, which has nothing but what the page puts there
    real        where config.json and tokenizer.json have the shape of the real Gemma 4 26B-A4B
    parsed      not at all (real weights, another program): secateur's options are still read

A block of `python` is a program, run in the page's folder. A block of another language with the
name of a file after it (`yaml mix.yaml`) is that file's content.

    python docs/generator/transcripts.py PAGE...     writes what the commands print now into pages
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gemma4_facts

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "secateur"
RUN = ("sh", "console", "python")
WORDS = ("real", "parsed")
NAME = "gemma-4-26B-A4B-it"
"""Of the folder with the real config."""
_FENCE = re.compile(r"^( *)```(\w+)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A command line of a page, and what it prints by the page; None where that is not shown."""

    text: str
    printed: str | None = None

    @property
    def programs(self) -> list[list[str]]:
        """The arguments of every secateur in it (`a | b`, `a && b`)."""
        words = shlex.split(self.text, comments=True)
        parts: list[list[str]] = [[]]
        for word in words:
            if word in ("|", "&&", ">", ";"):
                parts.append([])
            else:
                parts[-1].append(word)
        return [part[1:] for part in parts if part[:1] == [PROGRAM]]

    def prints(self, output: str) -> bool:
        """Whether that is what the page shows."""
        if self.printed is None:
            return True
        pattern = re.escape(self.printed.strip()).replace(re.escape("..."), ".*")
        return re.fullmatch(pattern, output.strip(), re.DOTALL) is not None


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, the words after it, its text and where it stands."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int
    span: tuple[int, int]
    """Of the text, in the page."""

    @property
    def commands(self) -> list[Command]:
        """The commands, if it is a block of a shell."""
        if self.language == "sh":
            text = self.text.replace("\\\n", " ")
            lines = [line.strip() for line in text.splitlines()]
            return [Command(line) for line in lines if line and not line.startswith("#")]
        if self.language == "console":
            return [_transcript(part) for part in re.split(r"^\$ ", self.text, flags=re.M)[1:]]
        if self.language == "python":
            return [Command(f"python -c {shlex.quote(self.text)}")]
        return []


def pages() -> list[Path]:
    """README.md and all of docs/ but the reference, whose commands are help pages."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    left_out = (ROOT / "docs" / "reference", ROOT / "docs" / "extending.md", ROOT / "docs/log.md")
    return [page for page in found if not any(page.is_relative_to(one) for one in left_out)]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page. Raises ValueError for a word that has no meaning."""
    text = page.read_text("utf-8")
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        words = tuple(match[3].split())
        if match[2] in RUN and (odd := set(words) - set(WORDS)):
            raise ValueError(f"{page}:{line}: {sorted(odd)[0]} is not one of {', '.join(WORDS)}")
        found.append(Block(match[2], words, match[4], line, match.span(4)))
    return found


def runnable(page: Path) -> list[Block]:
    """The blocks whose commands are run, and those that are files."""
    return [
        block
        for block in blocks(page)
        if (block.commands and "parsed" not in block.words)
        or (block.language not in RUN and block.words)
    ]


def run(page: Path, folder: Path) -> Iterator[tuple[Block, Command, str]]:
    """Run a page's commands in order in `folder`; gives what each prints on stdout.

    Raises CalledProcessError, with stderr, for a command that fails.
    """
    home, real = folder / "page", folder / NAME
    home.mkdir()
    for block in runnable(page):
        if block.language not in RUN:
            (home / block.words[0]).write_text(block.text, "utf-8")
            continue
        if "real" in block.words and not real.is_dir():
            gemma4_facts.write_model(real)
        for command in block.commands:
            # A vocabulary of the real sizes stands in for the real tokenizer.
            text = command.text.replace("tokenizer.json", "vocabulary.gguf")
            done = subprocess.run(
                ["bash", "-eo", "pipefail", "-c", text],
                cwd=real if "real" in block.words else home,
                env=_environment(folder), capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"{page}:{block.line}: {command.text}: {done.stderr}")
            yield block, command, done.stdout


def update(page: Path) -> None:
    """Write what the commands of `console` blocks print now into the page."""
    replaced: dict[tuple[int, int], str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for block, command, output in run(page, Path(folder)):
            if block.language == "console":
                shown = command.printed if command.prints(output) else output
                text = f"$ {command.text}\n{(shown or '').rstrip()}".rstrip()
                replaced[block.span] = f"{replaced.get(block.span, '')}{text}\n"
    text = page.read_text("utf-8")
    for (start, end), new in sorted(replaced.items(), reverse=True):
        text = text[:start] + new + text[end:]
    page.write_text(text, "utf-8")


def _transcript(part: str) -> Command:
    """A command that may go on in further lines, and what it prints."""
    lines = part.splitlines()
    size = 1
    while lines[size - 1].endswith("\\"):
        size += 1
    return Command("\n".join(lines[:size]), "\n".join(lines[size:]))


def _environment(folder: Path) -> dict[str, str]:
    """That of a reader who has installed secateur, with folders of their own."""
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "COLUMNS": "100",
    }


if __name__ == "__main__":
    for name in sys.argv[1:]:
        update(Path(name))
