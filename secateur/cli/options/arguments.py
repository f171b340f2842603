"""The arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.choices import complete_or_path, models

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=complete_or_path(models),
        help="Model folder, hub id (owner/name), or 'gemmule', the small model included here.",
    ),
]
Statistics = Annotated[
    Path,
    typer.Argument(metavar="STATISTICS", help="Statistics that `calibrate` wrote."),
]
