"""`secateur synth`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from secateur.cli.help import FILES
from secateur.cli.options.output import Json, Out
from secateur.cli.options.running import FamilyFile, Revision, Workers
from secateur.cli.progress import show_progress
from secateur.cli.register import add_command
from secateur.cli.terminal import note, show

EXAMPLES = """
secateur synth google/gemma-4-26B-A4B-it --layers 4 -o gemma-4-layers
secateur synth ./config.json --seed 7 -o random
secateur synth ./config.json --layers 4 --form stacked -o random
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, synth, group=FILES, examples=EXAMPLES)


def synth(
    config: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG",
            help="A config.json, a folder with one, or a hub id: its small files are enough.",
        ),
    ],
    out: Out,
    layers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Decoder layers. Default: all of the config."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Which random numbers: a seed gives one model.")
    ] = 0,
    form: Annotated[
        Literal["published", "plain", "stacked", "fp8", "mxfp4"],
        typer.Option(
            help="As its publisher stores it, in 16 bits, with the experts of a layer in one "
            "tensor, or in 8 or 4 bits where the family is published so.",
        ),
    ] = "published",
    revision: Revision = None,
    family: FamilyFile = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Write random weights with a model's real shapes, for a dry run."""
    from secateur.api.synth import RandomWeights
    from secateur.api.synth import synth as run

    with show_progress() as progress:
        made = run(
            config,
            out,
            RandomWeights(layers, seed, form),
            revision=revision,
            family=family,
            workers=workers,
            on_message=note,
            progress=progress,
        )
    files = {name: sum(tensor.nbytes for tensor in tensors) for name, tensors in made.shards}
    show(
        {"folder": str(out), "seed": seed, "tensor_bytes": made.nbytes, "shards": files},
        [f"{out}: {made.described}"],
        as_json,
    )
