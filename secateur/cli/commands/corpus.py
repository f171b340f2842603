"""`secateur corpus`: the mixes that ship, and what a mix will give before hours are spent on it."""

from __future__ import annotations

from typing import Annotated

import typer

from secateur.cli.options.calibration import MixSeed, SequenceLength
from secateur.cli.options.output import Json
from secateur.cli.options.running import Revision, Workers
from secateur.cli.progress import show_progress
from secateur.cli.register import add_command, new_app
from secateur.cli.terminal import show

MixName = Annotated[
    str, typer.Argument(metavar="MIX", help="A mix by name or YAML path, or a JSONL or text file.")
]
OfModel = Annotated[
    str,
    typer.Option("--model", metavar="MODEL", help="Whose tokenizer and chat template are used."),
]
SampleSize = Annotated[
    int, typer.Option("--sample", min=1, metavar="N", help="Documents of each source to render.")
]
Examples = Annotated[
    bool, typer.Option("--examples", help="Print the first document of each source as rendered.")
]


def list_(as_json: Json = False) -> None:
    """The mixes that come with secateur."""
    from secateur.api.corpus import list_corpora
    from secateur.cli.render.corpus import mix_lines

    found = list_corpora()
    data = [
        {
            "name": mix.name,
            "description": mix.description,
            "sequence_length": mix.sequence_length,
            "sources": [source.location for source in mix.sources],
        }
        for mix in found
    ]
    show(data, mix_lines(found), as_json)


def check_(
    mix: MixName,
    model: OfModel,
    sample: SampleSize = 200,
    seed: MixSeed = None,
    sequence_length: SequenceLength = None,
    examples: Examples = False,
    revision: Revision = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Render a sample of each source, count its tokens, name what is amiss.

    Exits with 2 when the corpus cannot be made as it is.
    """
    from secateur.api.corpus import check_corpus
    from secateur.cli.render.corpus import check_lines

    with show_progress() as progress:
        found = check_corpus(
            mix,
            model,
            sample=sample,
            seed=seed,
            sequence_length=sequence_length,
            revision=revision,
            workers=workers,
            progress=progress,
        )
    show(found.to_json(), check_lines(found, examples=examples), as_json)
    found.refuse()


app = new_app("Texts to calibrate on.", epilog="secateur corpus list")
add_command(app, list_, name="list", examples="secateur corpus list")
add_command(
    app,
    check_,
    name="check",
    examples="""
secateur corpus check gemmule --model gemmule
secateur corpus check mix.yaml --model MODEL --sample 1000 --examples
""",
)
