"""`secateur measure` and `secateur compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.help import Command
from secateur.cli.options import (
    Answers,
    AnswerTokens,
    Engine,
    FamilyFile,
    Json,
    MaxKl,
    MinTop1,
    PerDomain,
    Prompts,
    QualityGates,
    Revision,
    Temperature,
    Workers,
)
from secateur.cli.progress import show_progress
from secateur.cli.terminal import show

EXAMPLES = """
secateur measure out --against gemmule
secateur measure model-Q4_K_M.gguf --against MODEL --prompts held-out.jsonl --gate "kl_mean<=0.1"
"""

Against = Annotated[str, typer.Option(metavar="MODEL", help="The original model.")]
Work = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Keeps the original's answers and probabilities, and the scores. Default: a folder "
        "of ~/.cache/secateur.",
    ),
]
Artefact = Annotated[
    Path, typer.Argument(metavar="ARTEFACT", help="A model folder (MLX too) or a GGUF.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(cls=Command, epilog=EXAMPLES)(measure)
    app.command(
        cls=Command, epilog="secateur compare out/a-Q4_K_M.gguf out/a-Q4_0.gguf --against gemmule"
    )(compare)


def measure(
    out: Annotated[
        Path,
        typer.Argument(metavar="OUTPUT", help="An output of `apply`, a model folder or a GGUF."),
    ],
    against: Against,
    prompts: Prompts = None,
    answers: Answers = None,
    per_domain: PerDomain = None,
    answer_tokens: AnswerTokens = 256,
    temperature: Temperature = 1.0,
    engine: Engine = False,
    quality_gates: QualityGates = None,
    max_kl: MaxKl = None,
    min_top1: MinTop1 = None,
    work: Work = None,
    revision: Revision = None,
    family: FamilyFile = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Divergence from the original on its own answers, per domain, with intervals."""
    from secateur.api.requests import Measuring

    request = Measuring(
        prompts, answers, per_domain, max_kl, min_top1, tuple(quality_gates or ()),
        answer_tokens, temperature, engine,
    )  # fmt: skip
    with show_progress() as progress:
        from secateur.api.measure import measure as run
        from secateur.api.models import with_family

        found = run(
            out,
            with_family(against, revision, family, weights=True),
            request,
            work=work,
            revision=revision,
            workers=workers,
            progress=progress,
        )
    from secateur.cli.render.measurement import measurement_lines

    show(found.to_json(), measurement_lines(found), as_json)
    found.check_gate()


def compare(
    first: Artefact,
    second: Artefact,
    against: Against,
    prompts: Prompts = None,
    answers: Answers = None,
    per_domain: PerDomain = None,
    answer_tokens: AnswerTokens = 256,
    temperature: Temperature = 1.0,
    work: Work = None,
    revision: Revision = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Which of two artefacts is nearer to the original: paired differences, with intervals.

    On the same answers, so that what is hard for both does not count. What `measure` has scored
    already, with the same options, is not scored again.
    """
    from secateur.api.requests import Measuring

    request = Measuring(
        prompts, answers, per_domain, answer_tokens=answer_tokens, temperature=temperature
    )
    with show_progress() as progress:
        from secateur.api.measure import compare as run

        found = run(
            first, second, against, request,
            work=work, revision=revision, workers=workers, progress=progress,
        )  # fmt: skip
    from secateur.cli.render.measurement import comparison_lines

    result = {
        "first": str(first),
        "second": str(second),
        "comparisons": [entry.to_json() for entry in found],
    }
    show(result, comparison_lines((first.name, second.name), found), as_json)
