"""`secateur measure`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.help import Command
from secateur.cli.options import (
    Answers,
    Json,
    MaxKl,
    MinTop1,
    PerDomain,
    Prompts,
    Revision,
    Workers,
)
from secateur.cli.progress import show_progress
from secateur.cli.terminal import show

EXAMPLES = """
secateur measure out --against gemmule
secateur measure model-Q4_K_M.gguf --against MODEL --prompts held-out.jsonl --max-kl 0.1
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command, epilog=EXAMPLES)(measure)


def measure(
    out: Annotated[
        Path,
        typer.Argument(metavar="OUTPUT", help="An output of `apply`, a model folder or a GGUF."),
    ],
    against: Annotated[str, typer.Option(metavar="MODEL", help="The original model.")],
    prompts: Prompts = None,
    answers: Answers = None,
    per_domain: PerDomain = None,
    max_kl: MaxKl = None,
    min_top1: MinTop1 = None,
    work: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Keeps the original's answers and probabilities. Default: ~/.cache/secateur.",
        ),
    ] = None,
    revision: Revision = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Divergence from the original on its own answers, per domain, with intervals."""
    from secateur.api.requests import Measuring

    request = Measuring(prompts, answers, per_domain, max_kl, min_top1)
    with show_progress() as progress:
        from secateur.api.measure import measure as run

        found = run(
            out,
            against,
            request,
            work=work,
            revision=revision,
            workers=workers,
            progress=progress,
        )
    from secateur.cli.render.measurement import measurement_lines

    show(found.to_json(), measurement_lines(found), as_json)
    found.check_gate()
