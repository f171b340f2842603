"""Options: where results go, and how they are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.help import OUTPUT

Out = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="PATH", help="Where to write.", rich_help_panel=OUTPUT),
]
OutOrStdout = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        help="Where to write, instead of to stdout.",
        rich_help_panel=OUTPUT,
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Overwrite the file that is there.", rich_help_panel=OUTPUT)
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=OUTPUT)
]
