"""`secateur shrink`: all steps in one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.help import ONE_GO
from secateur.cli.options.arguments import Model
from secateur.cli.options.asking import ServingOptions, TaskOptions, all_words, given
from secateur.cli.options.calibration import CalibrationOptions, Stats
from secateur.cli.options.formats import FormatOptions
from secateur.cli.options.measuring import AnswerOptions, GateOptions, NoMeasure
from secateur.cli.options.output import Out
from secateur.cli.options.pruning import PruningOptions
from secateur.cli.options.releasing import PushOptions
from secateur.cli.options.robustness import LoopOptions, SpeedOptions
from secateur.cli.options.running import RUNNING, Device, EstimateOnly, RunOptions, WorkOptions
from secateur.cli.progress import show_progress
from secateur.cli.register import add_command
from secateur.cli.render.estimate import show_estimate
from secateur.cli.terminal import note, show, tells
from secateur.errors import RequestError

if TYPE_CHECKING:
    from secateur.api.requests import Job, Measuring, Releasing
    from secateur.release.report import Report

WriteJob = Annotated[
    Path | None,
    typer.Option(
        "--write-job",
        metavar="FILE",
        help="Write all this as a job file for `secateur run`, and do nothing else.",
        rich_help_panel=RUNNING,
    ),
]
EXAMPLES = """
secateur shrink gemmule --experts 24 --types Q4_K_M -o out
secateur shrink MODEL --experts 103 --types Q4_K_M --corpus mix.yaml -o out
secateur shrink MODEL --experts 90 --types Q4_K_M \\
    --stats out/evidence/statistics.safetensors -o smaller
secateur shrink MODEL --types Q8_0 --corpus mix.yaml -o quantized
secateur shrink MODEL --types Q4_K_M --corpus mix.yaml -o out \\
    --push OWNER/NAME
secateur shrink MODEL --types Q4_K_M --corpus mix.yaml --engine ray -o out
secateur shrink gemmule --experts 24 -o out --write-job job.yaml
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, shrink, group=ONE_GO, examples=EXAMPLES)


def shrink(
    model: Model,
    out: Out,
    pruning: PruningOptions,
    formats: FormatOptions,
    text: CalibrationOptions,
    answering: AnswerOptions,
    gates: GateOptions,
    tasks: TaskOptions,
    loops: LoopOptions,
    speed: SpeedOptions,
    serving: ServingOptions,
    pushing: PushOptions,
    running: RunOptions,
    work: WorkOptions,
    stats: Stats = None,
    no_measure: NoMeasure = False,
    device: Device = "auto",
    write_job: WriteJob = None,
    estimate: EstimateOnly = False,
) -> None:
    """Calibrate, plan, apply, measure and report; with --push release, too.

    An interrupted run resumes at the stage where it stopped. What it measures on, where nothing
    is named: a share of the corpus, which the calibration does not see. All experts are kept
    where neither their number, nor a share to drop, nor a drop map is named.
    """
    from secateur.api.requests import Job

    asked = all_words(gates, tasks, loops, speed, serving)
    measuring = answering.request(device=device, **asked)
    serving.refuse_unused(measuring)
    if no_measure:
        refuse_measuring(measuring, answering)
    job = Job(
        model=model,
        revision=running.revision,
        family=running.family,
        pruning=pruning.request(),
        formats=formats.request(),
        # Held out all the same, to be measured on later.
        calibration=text.request(
            device=device, held_out=answering.held_out if no_measure else None
        ),
        measuring=None if no_measure else measuring,
        statistics=stats,
        imatrix=formats.imatrix,
        unseen_experts=formats.unseen_experts,
        out=str(out),
        running=work.running(),
    )
    if write_job is not None:
        write_job_file(job, write_job, pushing)
    elif estimate:
        estimate_job(job, out, running.as_json)
    else:
        do_job(job, out, pushing, running.as_json)


def refuse_measuring(measuring: Measuring, answering: AnswerOptions) -> None:
    """Raise RequestError for what would be measured, on what, or held to a limit, with
    --no-measure; a share is held out all the same."""
    on = [name for name in given(answering) if name != "--held-out"]
    if on or measuring.kinds or measuring.limits or measuring.real_engine:
        raise RequestError(
            "with --no-measure nothing is measured and no limit is held: leave it out, or the "
            "options that say what to measure"
        )


def write_job_file(job: Job, path: Path, pushing: PushOptions) -> None:
    """Write a job as a file. Raises RequestError for a push, which a file does not hold."""
    from secateur.api.job_text import save_job

    if pushing.request() is not None:
        raise RequestError(f"a job file holds no --push: give it to `secateur run {path}`")
    save_job(job, path)
    note(f"written to {path}: secateur run {path}")


def do_job(job: Job, out: Path, pushing: PushOptions, as_json: bool) -> None:
    """Do what a job says, print what was made, and release it where that was asked for."""
    from secateur.api.job import run

    request = check_push(pushing)
    with show_progress() as progress:
        report = run(job, out, on_message=note, progress=progress)
    show_results(report, out, request, as_json)


def check_push(pushing: PushOptions) -> Releasing | None:
    """What is to be pushed, with a login that was tried before the hours that come first."""
    request = pushing.request()
    if request is not None:
        from secateur.api.release import check_push as check

        check(request)
    return request


def show_results(
    report: Report | None, out: Path, request: Releasing | None, as_json: bool
) -> None:
    """Print what was made, and release it where that was asked for: with --json as one document,
    that of the release. Raises GateError before anything is sent."""
    if request is None or not as_json:
        show_result(report, out, as_json)
    elif report is not None:
        report.check_gate()
    if request is not None:
        from secateur.cli.commands.release import publish

        publish(out, request, as_json)


def estimate_job(job: Job, out: Path, as_json: bool) -> None:
    """Print what a job would take. Raises RequestError where this machine cannot suffice."""
    from secateur.api.job import estimate

    with show_progress() as progress:
        found = estimate(job, out, progress=progress)
    show_estimate(found, as_json)


def show_result(report: Report | None, out: Path, as_json: bool) -> None:
    """Print what was made; without a report what the manifest says. Raises GateError."""
    from secateur.cli.render.measurement import measured_json, shrink_lines
    from secateur.cli.render.output import output_lines
    from secateur.release.manifest import read_manifest

    if report is None:
        manifest = read_manifest(out)
        show(manifest, output_lines(out, manifest), as_json)
    else:
        show(measured_json(report), shrink_lines(report, out, by_domain=tells("INFO")), as_json)
        report.check_gate()
