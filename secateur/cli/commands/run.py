"""`secateur run`: all steps from one file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.commands.shrink import do_job, estimate_job
from secateur.cli.help import ONE_GO, OUTPUT
from secateur.cli.options.output import Json
from secateur.cli.options.releasing import PushOptions
from secateur.cli.options.running import EstimateOnly, WorkOptions
from secateur.cli.register import add_command

EXAMPLES = """
secateur run job.yaml
secateur run job.yaml --set pruning.experts=90 \\
    --set formats.types=Q4_K_M,Q8_0 -o out90
secateur run out/job.yaml -o again
secateur run job.yaml --engine ray
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, run, group=ONE_GO, examples=EXAMPLES)


def run(
    job: Annotated[
        Path, typer.Argument(metavar="JOB", help="A job file, or the job.yaml of an output.")
    ],
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Put a value into the job: pruning.experts=90; may be repeated.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="Where to write. Default: the job's out.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    *,
    pushing: PushOptions,
    work: WorkOptions,
    estimate: EstimateOnly = False,
    as_json: Json = False,
) -> None:
    """Do what a job file says: calibrate, plan, apply, measure, report.

    The file is what the options of `shrink` are, and every output holds it with nothing left open
    (job.yaml): running that gives the same bytes. With --push the output is released, too.
    """
    from secateur.api.job import place_of
    from secateur.api.job_file import read_job

    asked = read_job(job, values or ())
    asked = replace(asked, running=work.running(asked.running))
    folder = place_of(asked, out)
    if estimate:
        estimate_job(asked, folder, as_json)
    else:
        do_job(asked, folder, pushing, as_json)
