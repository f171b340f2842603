"""`secateur calibrate`."""

from __future__ import annotations

import typer

from secateur.cli.help import STEPS
from secateur.cli.options.arguments import Model
from secateur.cli.options.calibration import (
    CalibrationOptions,
    HeldOut,
    KeepSample,
    Observe,
    ShardOf,
)
from secateur.cli.options.output import Force, Out
from secateur.cli.options.running import Device, EstimateOnly, RunOptions, WorkOptions
from secateur.cli.progress import show_progress
from secateur.cli.register import add_command
from secateur.cli.render.estimate import show_estimate
from secateur.cli.terminal import note, show

EXAMPLES = """
secateur calibrate gemmule --corpus gemmule -o stats.safetensors
secateur calibrate MODEL --corpus mix.yaml --seed 42 -o stats.safetensors
secateur calibrate MODEL --rows rows.jsonl -o stats.safetensors
secateur calibrate MODEL --corpus mix.yaml --held-out 0.1 -o stats.safetensors
secateur calibrate MODEL --corpus mix.yaml --shard 2/3 -o part2.safetensors
secateur calibrate MODEL --corpus mix.yaml --engine ray -o stats.safetensors
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, calibrate, group=STEPS, examples=EXAMPLES)


def calibrate(
    model: Model,
    out: Out,
    text: CalibrationOptions,
    running: RunOptions,
    work: WorkOptions,
    held_out: HeldOut = None,
    observe: Observe = None,
    keep_sample: KeepSample = False,
    shard: ShardOf = None,
    device: Device = "auto",
    force: Force = False,
    estimate: EstimateOnly = False,
) -> None:
    """Read a corpus once: statistics of the experts, and imatrix sums."""
    from secateur.api.calibrate import calibrate as run

    request = text.request(
        observe=tuple(observe or ()),
        keep_sample=keep_sample,
        shard=shard,
        device=device,
        held_out=held_out,
    )
    if estimate:
        from secateur.api.estimate import estimate_calibration

        with show_progress() as progress:
            expected = estimate_calibration(
                running.open(model, weights=True),
                out,
                request,
                revision=running.revision,
                workers=work.running(),
                progress=progress,
            )
        show_estimate(expected, running.as_json)
        return
    with show_progress() as progress:
        found = run(
            running.open(model, weights=True),
            out,
            request,
            revision=running.revision,
            workers=work.running(),
            force=force,
            on_message=note,
            progress=progress,
        )
    from secateur.cli.render.statistics import calibration_lines, calibration_summary

    summary = calibration_summary(found, out)
    show(summary, calibration_lines(summary), running.as_json)
