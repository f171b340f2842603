"""Options: what a plan assumes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PLANNING = "Planning"

Tokenizer = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="tokenizer.json or its folder, or a GGUF that holds the vocabulary.",
        rich_help_panel=PLANNING,
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        metavar="TOKENS",
        help="Tokens of context to count memory for. Default: 32768.",
        rich_help_panel=PLANNING,
    ),
]
WithImatrix = Annotated[
    bool,
    typer.Option(
        "--with-imatrix",
        help="Choose types as if there were an importance matrix.",
        rich_help_panel=PLANNING,
    ),
]
