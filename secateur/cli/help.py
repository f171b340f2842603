"""Help pages: options in groups, choices and defaults shown, examples as they are typed.

Choices that come from a registry are imported when a page is shown, so that every other start of
the command line costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""Settings of the whole command line."""


def criterion_names() -> Sequence[str]:
    """All pruning criteria with what they are, the default first."""
    from secateur.pruning.criteria.registry import CRITERIA

    return [f"{one.name} ({one.help})" for one in CRITERIA.values()]


def aggregation_names() -> Sequence[str]:
    """The ways to aggregate scores over categories, the default first."""
    from secateur.pruning.criteria.aggregations import AGGREGATIONS

    return [f"{one.name} ({one.help})" for one in AGGREGATIONS.values()]


def observer_names() -> Sequence[str]:
    """The sums that are made on request."""
    from secateur.calibration.observers.registry import OBSERVERS

    return [f"{one.name} ({one.help})" for one in OBSERVERS.values()]


def format_names() -> Sequence[str]:
    """All output formats."""
    from secateur.outputs.registry import FORMATS

    return tuple(FORMATS)


def gate_names() -> Sequence[str]:
    """All metrics that a limit may be set to."""
    from secateur.evaluation.metrics import registry

    return registry.gate_names()


CHOICES: dict[str, Callable[[], Sequence[str]]] = {
    "CRITERION": criterion_names,
    "AGGREGATION": aggregation_names,
    "SUM": observer_names,
    "FORMAT[,FORMAT...]": format_names,
    "METRIC<=NUMBER": gate_names,
}
"""Placeholder of an option's value -> what it may be."""


LAST = ("Running", "Output")
"""The groups at the end of every page."""


class Command(TyperCommand):
    """A command whose help shows options by group, and its examples (epilog) line by line."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_options(self.get_params(ctx), ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        write_examples(self.epilog, formatter)


class Group(TyperGroup):
    """A group of commands whose help shows the whole first sentence of every command."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, _first_sentence(command.help or ""))
                    for name in self.list_commands(ctx)
                    if (command := self.get_command(ctx, name)) and not command.hidden
                ]
            )
        write_options(self.get_params(ctx), ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        write_examples(self.epilog, formatter)


def write_options(params: Sequence[Any], ctx: Any, formatter: Any) -> None:
    """Write arguments, then options under the heading of their `rich_help_panel`."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for param in params:
        record = param.get_help_record(ctx)
        if record is None:
            continue
        name, text = record
        if choices := CHOICES.get(getattr(param, "metavar", None) or ""):
            text = f"{text}  [{', '.join(choices())}]"
        argument = param.param_type_name == "argument"
        name = name.partition(" <")[0] if argument else name  # without the type in Python
        panel = "Arguments" if argument else getattr(param, "rich_help_panel", None) or "Options"
        groups.setdefault(panel, []).append((name, text))
    for panel in sorted(groups, key=_place):
        with formatter.section(panel):
            formatter.write_dl(groups[panel])


def write_examples(text: str | None, formatter: Any) -> None:
    """Write examples, one command a line."""
    if text:
        with formatter.section("Examples"):
            for line in text.strip().splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line.strip()}\n")


def _place(panel: str) -> int:
    """Arguments and what is the command's own first, how to run it last."""
    if panel in LAST:
        return 1 + LAST.index(panel)
    return -1 if panel in ("Arguments", "Options") else 0


def _first_sentence(text: str) -> str:
    return " ".join(text.split("\n\n", maxsplit=1)[0].split()).partition(". ")[0].rstrip(".")
