"""The page of all commands: what `--help` prints, command by command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

WIDTH = 100


def commands() -> str:
    """The page's text."""
    found = list(walk())
    index = "\n".join(f"- [`{name}`](#{_anchor(name)})" for name, _ in found)
    sections = "\n".join(f"## {name}\n\n```text\n{text}```\n" for name, text in found)
    return (
        "# Commands\n\nEvery command with all its options, as `--help` shows them. Exit codes: 0 "
        "done, 1 failed, 2 bad input, 3 a quality gate was not met, 130 interrupted.\n\n"
        f"{index}\n\n{sections}"
    )


def walk() -> Iterator[tuple[str, str]]:
    """(name, help) of every command, those of groups after their group."""
    from secateur.cli.main import app

    yield from _walk(typer.main.get_command(app), "secateur", None)


def _walk(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    context = command.make_context(
        name.rsplit(maxsplit=1)[-1] if parent else name, [], parent, resilient_parsing=True,
        terminal_width=WIDTH, max_content_width=WIDTH,
    )  # fmt: skip
    yield name, "\n".join(line.rstrip() for line in command.get_help(context).splitlines()) + "\n"
    if isinstance(command, TyperGroup):
        for word in command.list_commands(context):
            found = command.get_command(context, word)
            if found is not None and not found.hidden:
                yield from _walk(found, f"{name} {word}", context)


def _anchor(name: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^a-z0-9 -]", "", name.lower()).replace(" ", "-")
