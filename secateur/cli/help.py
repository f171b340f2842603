"""Help pages: options in groups, choices and defaults shown, examples as they are typed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from typer.core import TyperCommand, TyperGroup

from secateur.cli.choices import SHOWN

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""Settings of the whole command line."""

ONE_GO, STEPS = "All steps in one go", "The same step by step"
USING, LOOKING, FILES = "To use a model", "To look and to check", "To work with files"
COMMAND_GROUPS = (ONE_GO, STEPS, USING, LOOKING, FILES)
"""Groups of commands on the first page, in order."""

ARGUMENTS, OPTIONS, OUTPUT = "Arguments", "Options", "Output"
LAST = ("Running", OUTPUT)
"""The groups at the end of every page."""

WIDEST_NAME = 26
"""Columns that an option's name may take before its text begins on the next line."""


@dataclass(frozen=True)
class Entry:
    """An argument or option as a help page shows it."""

    group: str
    name: str
    text: str
    choices: tuple[tuple[str, str], ...] = ()


class Command(TyperCommand):
    """A command whose help shows options by group, and its examples (epilog) line by line."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS]", *_arguments(self.get_params(ctx))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_entries(describe_all(self.get_params(ctx)), formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(self.epilog, formatter)


class Group(TyperGroup):
    """A group of commands, each with the first sentence of its help on a line.

    A command may have a name of two words, as `plan diff` beside `plan`.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = " ".join(args[:2])
        if len(args) > 1 and name in self.commands:
            return name, self.commands[name], args[2:]
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in COMMAND_GROUPS}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                panel = getattr(command, "rich_help_panel", None) or "Commands"
                sentence = first_sentence(command.help or "")
                groups.setdefault(panel, []).append((name, sentence))
        for panel, rows in groups.items():
            if rows:
                with formatter.section(panel):
                    formatter.write_dl(rows)
        options = [replace(one, group=OPTIONS) for one in describe_all(self.get_params(ctx))]
        _write_entries(options, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(self.epilog, formatter)


def describe_all(params: Iterable[Any]) -> list[Entry]:
    """The arguments and options of a command, in the order of its help page."""
    found = [describe(param) for param in params if not param.hidden]
    return sorted(found, key=lambda entry: _place(entry.group))


def describe(param: Any) -> Entry:
    """An argument or option: names and placeholder, text with the default, choices."""
    if param.param_type_name == "argument":
        return Entry(ARGUMENTS, _placeholder(param), param.help or "")
    names = ", ".join(sorted(param.opts, key=lambda name: name.startswith("--")))
    value = "" if param.is_flag or param.count else f" {_placeholder(param)}"
    if param.required:
        state = "  [required]"
    elif value and param.default is not None:
        state = f"  [default: {param.default}]"
    else:
        state = ""
    group = param.rich_help_panel or (OUTPUT if "--help" in param.opts else OPTIONS)
    known = SHOWN.get(param.name)
    return Entry(group, names + value, (param.help or "") + state, tuple(known()) if known else ())


def first_sentence(text: str) -> str:
    """The first sentence of a command's help, without the full stop."""
    return " ".join(text.split("\n\n", maxsplit=1)[0].split()).partition(". ")[0].rstrip(".")


def _placeholder(param: Any) -> str:
    """What stands for a value: its metavar, or the choices in braces."""
    if param.metavar:
        return str(param.metavar)
    if choices := param.type_descriptor.choices:
        return "{" + "|".join(map(str, choices)) + "}"
    return str(param.name).upper()


def _arguments(params: Iterable[Any]) -> list[str]:
    names = [
        (_placeholder(param), param.required)
        for param in params
        if param.param_type_name == "argument"
    ]
    return [name if required else f"[{name}]" for name, required in names]


def _place(panel: str) -> int:
    """Arguments and what is the command's own first, how to run it last."""
    if panel in LAST:
        return 1 + LAST.index(panel)
    return -2 if panel == ARGUMENTS else -1 if panel == OPTIONS else 0


def _write_entries(entries: Sequence[Entry], formatter: Any) -> None:
    """Every group under its heading, its texts in one column."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.group, []).append(entry)
    for name, rows in groups.items():
        widths = [len(row.name) for row in rows if len(row.name) <= WIDEST_NAME]
        column = 4 + max(widths, default=8)
        with formatter.section(name):
            for row in rows:
                formatter.write("".join(f"{line}\n" for line in _lines(row, column, formatter)))


def _lines(entry: Entry, column: int, formatter: Any) -> list[str]:
    """An entry's text beside its name, or below a long one; then a line or more for each choice."""
    name = f"  {entry.name}"
    width = formatter.width - column
    text = textwrap.wrap(entry.text, width, break_on_hyphens=False)
    if all(not meaning for _, meaning in entry.choices):
        names = ", ".join(value for value, _ in entry.choices)
        text += textwrap.wrap(names, width, initial_indent="  ", subsequent_indent="  ")
    else:
        for value, meaning in entry.choices:
            text += textwrap.wrap(
                f"{value}: {meaning}", width, initial_indent="  ", subsequent_indent="      "
            )
    if len(name) + 2 > column:
        text.insert(0, "")
    first, *rest = text or [""]
    return [f"{name:{column}}{first}".rstrip(), *(f"{'':{column}}{line}" for line in rest)]


def _write_examples(text: str | None, formatter: Any) -> None:
    """Write examples, one command a line; a line that follows a backslash stands further right."""
    if not text:
        return
    with formatter.section("Examples"):
        continues = False
        for line in text.strip().splitlines():
            formatter.write(f"{'      ' if continues else '  '}{line.strip()}\n")
            continues = line.rstrip().endswith("\\")
