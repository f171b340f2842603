"""`secateur family`: the families that are known, and a draft of one that is not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.help import CONTEXT, Command, Group
from secateur.cli.options.arguments import Model
from secateur.cli.options.output import Json
from secateur.cli.options.running import FamilyFile, Revision
from secateur.cli.terminal import show

app = typer.Typer(cls=Group, help="Model families: list, show, draft.", context_settings=CONTEXT)


@app.command("list", cls=Command, epilog="secateur family list")
def list_(family: FamilyFile = None, as_json: Json = False) -> None:
    """The families that are known: those that ship with secateur, and your own."""
    from secateur.api.families import list_families
    from secateur.cli.render.families import family_lines, family_to_json

    found = list_families(family)
    show([family_to_json(one) for one in found], family_lines(found), as_json)


@app.command("show", cls=Command, epilog="secateur family show NAME")
def show_(
    name: Annotated[str, typer.Argument(help="The name of a family.")], family: FamilyFile = None
) -> None:
    """A family's file, as an example for one of your own."""
    from secateur.api.families import find_family

    found = find_family(name, family)
    sys.stdout.write(f"# {found.file}\n{Path(found.file).read_text('utf-8')}")


@app.command("draft", cls=Command, epilog="secateur family draft MODEL -o my-family.toml")
def draft_(
    model: Model,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: stdout.")] = None,
    revision: Revision = None,
) -> None:
    """A family's file as far as config and headers tell; what they do not is marked FILL IN."""
    from secateur.api.families import draft_family, save_draft

    text = draft_family(model, revision)
    if out is None:
        sys.stdout.write(text)
    else:
        save_draft(text, out)
