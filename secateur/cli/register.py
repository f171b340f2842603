"""How a command gets onto the command line: with the options of its groups, and -v and -q."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

from secateur.cli.help import CONTEXT, OUTPUT, Command, Group
from secateur.cli.terminal import Interrupted, set_detail

Verbose = Annotated[
    int,
    typer.Option(
        "-v",
        "--verbose",
        count=True,
        help="Print more: longer tables, and on stderr what is done; -vv for tracebacks too.",
        rich_help_panel=OUTPUT,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("-q", "--quiet", help="Print the result and errors only.", rich_help_panel=OUTPUT),
]


@dataclass(frozen=True)
class Detail:
    """How much is told, where that was said before the command: `secateur -v plan ...`."""

    verbose: int = 0
    quiet: bool = False


def new_app(help_text: str, **words: Any) -> typer.Typer:
    """A group of commands that shows its help when none of them is named."""
    app = typer.Typer(
        cls=Group, help=help_text, context_settings=CONTEXT, rich_markup_mode=None,
        pretty_exceptions_enable=False, **words,
    )  # fmt: skip
    app.callback(invoke_without_command=True)(_show_help)
    return app


def _show_help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


def add_command(
    app: typer.Typer,
    function: Callable[..., None],
    *,
    examples: str,
    group: str | None = None,
    name: str | None = None,
) -> None:
    """Add a command; `group` is its place on the first page.

    A parameter whose type is a dataclass is a group of options: typer is shown the options one by
    one, and the command gets the group with its values.
    """
    add = app.command(name, cls=Command, epilog=examples, rich_help_panel=group)
    add(_with_groups(function))


def _with_groups(function: Callable[..., None]) -> Callable[..., None]:
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {}
    shown: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if is_dataclass(kind):
            groups[parameter.name] = kind
            types = get_type_hints(kind, include_extras=True)
            shown += [_show(one.name, types[one.name], one.default) for one in fields(kind)]
        else:
            shown.append(_show(parameter.name, kind, parameter.default))
    shown += [_show("verbose", Verbose, 0), _show("quiet", Quiet, False)]
    shown.append(_show("typer_context", typer.Context, inspect.Parameter.empty))

    @functools.wraps(function)
    def run(**values: Any) -> None:
        before = values.pop("typer_context").find_root().obj or Detail()
        verbose = max(values.pop("verbose"), before.verbose)
        set_detail(verbose, quiet=values.pop("quiet") or before.quiet)
        for name, kind in groups.items():
            values[name] = kind(**{one.name: values.pop(one.name) for one in fields(kind)})
        try:
            function(**values)
        except KeyboardInterrupt as error:  # typer would lose what it says
            raise Interrupted(error) from None

    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in shown}
    return run


def _show(name: str, kind: Any, default: Any) -> inspect.Parameter:
    # By keyword, so that what has a default may stand before what has none.
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
