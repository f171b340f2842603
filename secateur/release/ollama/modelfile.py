"""A Modelfile: its instructions, read as Ollama reads them, and written.

Grammar: an instruction is a word, then its value up to the end of the line; a value between three
quotation marks may go over lines; `#` begins a comment. PARAMETER has a name before its value.
Source: Ollama's docs/modelfile.mdx and parser/parser.go, August 2026.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from secateur.errors import FormatError

COMMANDS = (
    "from", "template", "system", "parameter", "license", "adapter", "draft", "renderer", "parser",
    "message", "requires",
)  # fmt: skip
_QUOTES = '"""'
_FIRST = re.compile(r"([A-Za-z]+)[ \t]+")
_NAME = re.compile(r"([A-Za-z0-9_]+)[ \t]+")


@dataclass(frozen=True)
class Instruction:
    """One instruction: its `command` in small letters, the `name` of a parameter (the role of a
    message), its value, and the line where it begins."""

    command: str
    value: str
    line: int = 0
    name: str = ""


@dataclass(frozen=True)
class Modelfile:
    """The instructions of a Modelfile in their order."""

    instructions: tuple[Instruction, ...]

    def of(self, command: str) -> tuple[Instruction, ...]:
        """The instructions of one command."""
        return tuple(one for one in self.instructions if one.command == command)

    def parameters(self, name: str) -> tuple[Instruction, ...]:
        """The PARAMETER instructions of one name."""
        return tuple(one for one in self.of("parameter") if one.name == name)


def parse_modelfile(text: str, where: str) -> Modelfile:
    """The instructions of a Modelfile. Raises FormatError, with the line, for what Ollama refuses:
    a word that is no command, a value without its end, or no FROM."""
    text = text.replace("\r\n", "\n").removeprefix("\ufeff")
    found: list[Instruction] = []
    at = 0
    while at < len(text):
        if text[at] in " \t\n":
            at += 1
            continue
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        if text[at] == "#":
            at = end
            continue
        line = text.count("\n", 0, at) + 1
        first = _FIRST.match(text, at)
        command = first[1].lower() if first else ""
        if first is None or command not in COMMANDS:
            raise FormatError(
                f"{where}, line {line}: begins with {text[at:end].split()[0]!r:.40}, expected one "
                f"of {', '.join(COMMANDS).upper()}"
            )
        at, name = first.end(), ""
        if command in ("parameter", "message"):
            word = _NAME.match(text, at)
            if word is None:
                raise FormatError(
                    f"{where}, line {line}: {command.upper()} needs a name and a value"
                )
            at, name = word.end(), word[1]
        value, at = _value(text, at, f"{where}, line {line}")
        found.append(Instruction(command, value, line, name))
    if not any(one.command == "from" for one in found):
        raise FormatError(f"{where}: has no FROM, which names the model")
    return Modelfile(tuple(found))


def write_modelfile(instructions: Sequence[Instruction], comments: Sequence[str]) -> str:
    """A Modelfile's text, comments first. Raises FormatError for a value that cannot be quoted."""
    lines = [f"# {line}".rstrip() for comment in comments for line in comment.splitlines() or [""]]
    for one in instructions:
        words = [one.command.upper(), one.name, _quoted(one)]
        lines.append(" ".join(filter(None, words)))
    return "\n".join(lines) + "\n"


def _value(text: str, at: int, where: str) -> tuple[str, int]:
    """The value that begins at `at`, and where it ends."""
    for quotes in (_QUOTES, '"'):
        if text.startswith(quotes, at):
            end = re.compile(re.escape(quotes) + r"[ \t]*(?=\n|$)").search(text, at + len(quotes))
            if end is None:
                raise FormatError(f"{where}: a value that begins with {quotes} has no end")
            return text[at + len(quotes) : end.start()], end.end()
    end_of_line = text.find("\n", at)
    end_of_line = len(text) if end_of_line < 0 else end_of_line
    return text[at:end_of_line].strip(), end_of_line


def _quoted(one: Instruction) -> str:
    whole_lines = one.command in ("template", "system", "license", "message")
    if not whole_lines and re.search(r"[\x00-\x1f\x7f]", one.value + one.name):
        raise FormatError(
            f"{one.command.upper()} {one.name} has a line end or a control character, and what "
            "follows it would be an instruction of its own"
        )
    if whole_lines:
        if re.search(r'"""[ \t]*(\n|$)', one.value + "\n"):
            raise FormatError(
                f"{one.command.upper()} has three quotation marks at the end of a line, and a "
                "Modelfile has no way to write that"
            )
        return f"{_QUOTES}{one.value}{_QUOTES}"
    return f'"{one.value}"' if one.name == "stop" else one.value
