"""`secateur calibrate`."""

from __future__ import annotations

import typer

from secateur.cli.help import Command
from secateur.cli.options import (
    Corpus,
    FamilyFile,
    Force,
    Json,
    KeepSample,
    MixSeed,
    Model,
    Observe,
    OnNan,
    Out,
    RerouteTokens,
    Revision,
    Rows,
    SequenceLength,
    ShardOf,
    Workers,
)
from secateur.cli.progress import show_progress
from secateur.cli.terminal import note, show

EXAMPLES = """
secateur calibrate gemmule --corpus gemmule -o stats.safetensors
secateur calibrate MODEL --corpus mix.yaml --seed 42 -o stats.safetensors
secateur calibrate MODEL --rows rows.jsonl -o stats.safetensors
secateur calibrate MODEL --corpus mix.yaml --shard 2/3 -o part2.safetensors
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command, epilog=EXAMPLES)(calibrate)


def calibrate(
    model: Model,
    out: Out,
    corpus: Corpus = None,
    rows: Rows = None,
    seed: MixSeed = None,
    sequence_length: SequenceLength = None,
    reroute_tokens: RerouteTokens = 16384,
    on_nan: OnNan = "stop",
    observe: Observe = None,
    keep_sample: KeepSample = False,
    shard: ShardOf = None,
    revision: Revision = None,
    family: FamilyFile = None,
    workers: Workers = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """One pass over a corpus: statistics of the experts, and imatrix sums."""
    from secateur.api.calibrate import calibrate as run
    from secateur.api.requests import Calibration

    request = Calibration(
        corpus, rows, seed, sequence_length, reroute_tokens, on_nan, tuple(observe or ()),
        keep_sample, shard,
    )  # fmt: skip
    from secateur.api.models import with_family

    with show_progress() as progress:
        found = run(
            with_family(model, revision, family, weights=True),
            out,
            request,
            revision=revision,
            workers=workers,
            force=force,
            on_message=note,
            progress=progress,
        )
    from secateur.cli.render.statistics import calibration_lines, calibration_summary

    summary = calibration_summary(found, out)
    show(summary, calibration_lines(summary), as_json)
