"""`secateur inspect`."""

from __future__ import annotations

import typer

from secateur.cli.help import Command
from secateur.cli.options import FamilyFile, Json, Model, Revision
from secateur.cli.terminal import show

EXAMPLES = """
secateur inspect gemmule
secateur inspect google/gemma-4-26B-A4B-it
secateur inspect ./config.json --json
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command, epilog=EXAMPLES)(inspect)


def inspect(
    model: Model,
    revision: Revision = None,
    family: FamilyFile = None,
    as_json: Json = False,
) -> None:
    """Shape, experts, parameters and bytes of a model. Reads no weights."""
    from secateur.api.inspect import inspect as run
    from secateur.api.models import with_family
    from secateur.cli.render.inspect import inspection_lines

    found = run(with_family(model, revision, family), revision)
    show(found.to_json(), inspection_lines(found), as_json)
