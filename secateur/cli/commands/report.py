"""`secateur report`: pages about outputs that were measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.help import LOOKING
from secateur.cli.options.output import Json
from secateur.cli.register import add_command
from secateur.cli.terminal import show

EXAMPLES = """
secateur report out
secateur report ladder
secateur report out-28e out-24e -o both.html
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, report, group=LOOKING, examples=EXAMPLES)


def report(
    outputs: Annotated[
        list[Path],
        typer.Argument(metavar="OUTPUT...", help="Measured outputs, or a folder that holds some."),
    ],
    page: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--page",
            metavar="FILE",
            help="Where one page about all of them goes. Default: report.html in the output or "
            "the folder.",
        ),
    ] = None,
    pictures: Annotated[
        bool,
        typer.Option("--pictures", help="Write the pictures as SVG files, too."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Render report.html of one output, or of several.

    One output gets its own report.md and report.html; measure and shrink write these, too. Several
    have to come from one original and be measured on the same answers.
    """
    from secateur.api.pages import report as run

    written = run(outputs, page, pictures=pictures)
    show(
        {"written": [str(path) for path in written]},
        [f"written: {path}" for path in written],
        as_json,
    )
