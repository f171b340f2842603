"""`secateur inspect`."""

from __future__ import annotations

import typer

from secateur.cli.help import LOOKING
from secateur.cli.options.arguments import Model
from secateur.cli.options.pruning import Counts
from secateur.cli.options.running import RunOptions
from secateur.cli.register import add_command
from secateur.cli.terminal import show

EXAMPLES = """
secateur inspect gemmule
secateur inspect google/gemma-4-26B-A4B-it --experts 109,103,90
secateur inspect ./config.json --json
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, inspect, group=LOOKING, examples=EXAMPLES)


def inspect(model: Model, running: RunOptions, experts: Counts = None) -> None:
    """Shape, experts, parameters and bytes of a model. Reads no weights."""
    from secateur.api.inspect import inspect as run
    from secateur.api.requests import read_counts
    from secateur.cli.render.inspect import inspection_lines

    found = run(running.open(model), running.revision, experts=read_counts(experts or ""))
    show(found.to_json(), inspection_lines(found), running.as_json)
