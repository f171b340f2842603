"""`secateur shrink`: the whole line in one command."""

from __future__ import annotations

import typer

from secateur.cli.help import ONE_GO
from secateur.cli.options.arguments import Model
from secateur.cli.options.calibration import CalibrationOptions, Stats
from secateur.cli.options.formats import FormatOptions
from secateur.cli.options.measuring import AnswerOptions, GateOptions, NoMeasure
from secateur.cli.options.output import Out
from secateur.cli.options.pruning import PruningOptions
from secateur.cli.options.running import RunOptions, Workers
from secateur.cli.progress import show_progress
from secateur.cli.register import add_command
from secateur.cli.terminal import note, show, tells

EXAMPLES = """
secateur shrink gemmule --experts 24 --types Q4_K_M -o out
secateur shrink MODEL --experts 103 --types Q4_K_M --corpus mix.yaml \\
    --prompts test.jsonl -o out
secateur shrink MODEL --experts 90 --types Q4_K_M --no-measure \\
    --stats out/evidence/statistics.safetensors -o smaller
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
    running: RunOptions,
    stats: Stats = None,
    no_measure: NoMeasure = False,
    workers: Workers = None,
) -> None:
    """Calibrate, plan, apply, measure and report.

    An interrupted run resumes at the stage where it stopped.
    """
    from secateur.api.requests import ShrinkRequest

    request = ShrinkRequest(
        pruning=pruning.request(),
        formats=formats.request(),
        calibration=text.request(),
        measuring=None if no_measure else answering.request(**gates.words()),
        statistics=stats,
        imatrix=formats.imatrix,
        unseen_experts=formats.unseen_experts,
    )
    from secateur.api.shrink import shrink as run

    with show_progress() as progress:
        report = run(
            running.open(model, weights=True),
            out,
            request,
            revision=running.revision,
            workers=workers,
            on_message=note,
            progress=progress,
        )
    from secateur.cli.render.measurement import shrink_lines
    from secateur.cli.render.output import output_lines
    from secateur.release.manifest import read_manifest

    if report is None:
        manifest = read_manifest(out)
        show(manifest, output_lines(out, manifest), running.as_json)
    else:
        show(report.to_json(), shrink_lines(report, out, by_domain=tells("INFO")), running.as_json)
        report.check_gate()
