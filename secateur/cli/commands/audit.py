"""`secateur audit`: parse, call the verb, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.help import LOOKING
from secateur.cli.options.output import Json
from secateur.cli.options.running import Revision
from secateur.cli.register import add_command
from secateur.cli.terminal import show
from secateur.errors import GateError

EXAMPLES = """
secateur audit model-Q4_K_M.gguf
secateur audit out
secateur audit hf://owner/name/model-Q4_K_M.gguf --claims card.md
secateur audit config.json --claims card.md --strict
secateur audit model-Q4_K_M.gguf --modelfile Modelfile
"""

_NOTHING = "{}: a config without GGUF files; name a model card with --claims to check it"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, audit, group=LOOKING, examples=EXAMPLES)


def audit(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A GGUF (file, hf://owner/name/file.gguf, URL), a folder of them, or a config or "
            "hub id to check a card against.",
        ),
    ],
    claims: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A model card to check.")
    ] = None,
    modelfile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A Modelfile of Ollama to check.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A model whose config counts, not the file's header."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 3 when anything is wrong.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Also list what holds and what cannot be checked.")
    ] = False,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """What a GGUF is, and whether its card and Modelfile can be true."""
    from secateur.api.audit import audit_model, ggufs_in
    from secateur.cli.render.audit import audit_lines

    files = ggufs_in(source) if claims is None and modelfile is None else ()
    found = [
        audit_model(one, claims=claims, modelfile=modelfile, config=config, revision=revision)
        for one in files or (source,)
    ]
    documents = [one.to_json() for one in found]
    lines = [line for one in found for line in audit_lines(one, everything)]
    data = {"source": source, "files": documents} if files else documents[0]
    show(data, lines or [_NOTHING.format(source)], as_json)
    wrong = [finding for one in found for finding in one.wrong]
    if strict and wrong:
        raise GateError(f"{source}: {len(wrong)} wrong, the first is: {wrong[0].sentence()}")
