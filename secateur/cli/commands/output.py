"""`secateur apply` and `secateur verify`: output folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.help import LOOKING, STEPS
from secateur.cli.options.calibration import Stats
from secateur.cli.options.formats import Imatrix
from secateur.cli.options.output import Json, Out
from secateur.cli.options.running import ChoosingDevice, EstimateOnly, FamilyFile, WorkOptions
from secateur.cli.progress import show_progress
from secateur.cli.register import add_command
from secateur.cli.render.estimate import show_estimate
from secateur.cli.terminal import show

APPLY_EXAMPLES = """
secateur apply plan.json --stats stats.safetensors -o out
secateur apply plan.json --model /mnt/gemma --imatrix imatrix.gguf -o out
"""

Output = Annotated[Path, typer.Argument(metavar="OUTPUT", help="An output of `apply` or `shrink`.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add_command(
        app,
        apply,
        group=STEPS,
        examples=APPLY_EXAMPLES,
    )
    add_command(app, verify, group=LOOKING, examples="secateur verify out")


def apply(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="The plan that `plan` wrote.")],
    out: Out,
    work: WorkOptions,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Where the model is now, if it moved.")
    ] = None,
    stats: Stats = None,
    imatrix: Imatrix = None,
    family: FamilyFile = None,
    device: ChoosingDevice = "cpu",
    estimate: EstimateOnly = False,
    as_json: Json = False,
) -> None:
    """Write what a plan says into a new folder, complete or absent. Resumes where it stopped."""
    if estimate:
        from secateur.api.estimate import estimate_applying

        with show_progress() as progress:
            expected = estimate_applying(
                plan,
                out,
                model=model,
                family=family,
                device=device,
                workers=work.running(),
                progress=progress,
            )
        show_estimate(expected, as_json)
        return
    from secateur.api.apply import apply as run
    from secateur.api.apply import open_planned
    from secateur.cli.render.output import output_lines
    from secateur.planning.document import read_plan

    with show_progress() as progress:
        decided = read_plan(plan)
        manifest = run(
            decided,
            out,
            model=model if family is None else open_planned(decided, model, family),
            statistics=stats,
            imatrix=imatrix,
            device=device,
            workers=work.running(),
            progress=progress,
        )
    show(manifest, output_lines(out, manifest), as_json)


def verify(
    out: Output,
    strict: Annotated[
        bool, typer.Option("--strict", help="A file that is not in the manifest is an error too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare an output with its manifest, file by file.

    A file that is missing or was changed, or a damaged manifest, is an error (exit code 2); so is a
    report.md or report.html that is not what the results give. A file that is not in the manifest,
    such as README.md, is a note, and so is run.json, which is compared with nothing.
    """
    from secateur.api.verify import unchecked
    from secateur.api.verify import verify as run
    from secateur.cli.render.output import refuse_problems, verification_lines

    with show_progress() as progress:
        problems = run(out, progress)
    alone = unchecked(out, problems)
    result = {
        "output": str(out),
        "problems": [
            {"file": entry.file, "what": entry.what} for entry in problems if entry.is_damage
        ],
        "additional": [entry.file for entry in problems if not entry.is_damage],
        "unchecked": alone,
    }
    show(result, verification_lines(out, problems, alone), as_json)
    refuse_problems(out, problems, strict=strict)
