"""`secateur family`: the families that are known, and a draft of one that is not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.choices import complete, families
from secateur.cli.options.arguments import Model
from secateur.cli.options.output import Json, OutOrStdout
from secateur.cli.options.running import FamilyFile, Revision
from secateur.cli.register import add_command, new_app
from secateur.cli.terminal import show


def list_(family: FamilyFile = None, as_json: Json = False) -> None:
    """The families that are known, your own among them."""
    from secateur.api.families import list_families
    from secateur.cli.render.families import family_lines, family_to_json

    found = list_families(family)
    show([family_to_json(one) for one in found], family_lines(found), as_json)


def show_(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The name of a family.", autocompletion=complete(families)
        ),
    ],
    family: FamilyFile = None,
) -> None:
    """A family's file, as an example for one of your own."""
    from secateur.api.families import find_family

    found = find_family(name, family)
    sys.stdout.write(f"# {found.file}\n{Path(found.file).read_text('utf-8')}")


def draft_(
    model: Model,
    out: OutOrStdout = None,
    revision: Revision = None,
) -> None:
    """Begin a family's file from config and headers.

    What they do not tell is marked FILL IN."""
    from secateur.api.families import draft_family, save_draft

    text = draft_family(model, revision)
    if out is None:
        sys.stdout.write(text)
    else:
        save_draft(text, out)


app = new_app("Model families: what a model's tensors are called.", epilog="secateur family list")
add_command(app, list_, name="list", examples="secateur family list")
add_command(app, show_, name="show", examples="secateur family show NAME")
add_command(app, draft_, name="draft", examples="secateur family draft MODEL -o my-family.toml")
