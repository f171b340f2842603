"""The whole line in one go: calibrate, plan, apply, measure, report; resumes where it stopped.

Everything is made in a work folder beside the output. A stage's result is a file that is whole
or absent, under a name that holds the hash of all that decides it; so an interrupted run finds
what it had finished, and a run with another request finds nothing of the old one. At the end the
result is renamed to its place and the work folder goes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

from secateur import __version__
from secateur.api.answers import check_can_measure
from secateur.api.apply import write_plan
from secateur.api.calibrate import calibrate
from secateur.api.measure import measure
from secateur.api.models import File, Model, load_imatrix, load_statistics, open_weights
from secateur.api.plan import plan
from secateur.api.requests import Calibration, ShrinkRequest, resolve_outputs
from secateur.calibration.observers.registry import OBSERVERS
from secateur.checkpoint.hub import GEMMULE
from secateur.checkpoint.reader import FAMILY_FILE, Checkpoint
from secateur.errors import PlanError
from secateur.outputs.apply import check_plan
from secateur.outputs.build import make_plan
from secateur.outputs.registry import format_of
from secateur.planning.checks import PlanSources
from secateur.pruning.choose import Choice, check_request
from secateur.pruning.criteria.registry import find_criterion
from secateur.release.manifest import versions
from secateur.release.report import Report
from secateur.system.progress import Progress, no_progress
from secateur.system.workdir import publish, work_folder

STATISTICS = "evidence/statistics.safetensors"
"""In a folder of its own: some loaders take every *.safetensors next to config.json for weights."""


def shrink(
    model: Model,
    out: File,
    request: ShrinkRequest,
    *,
    revision: str | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Make `out` from `model`; returns the report, which is also written into `out`.

    Raises OutputError when `out` exists; see the other commands for the rest. Interrupted, it
    leaves `out` absent and the work folder next to it; the next call resumes from there.
    """
    out = Path(out)
    checkpoint = open_weights(model, revision, "shrinking")
    request = replace(request, calibration=_with_corpus(request.calibration, model))
    request = replace(request, calibration=_with_observers(request))
    imatrix = load_imatrix(request.imatrix, checkpoint)
    _refuse_early(checkpoint, request)
    with work_folder(out) as work:
        observed = _statistics_path(checkpoint, request, work)
        if not observed.exists():
            calibrate(checkpoint, observed, request.calibration, workers=workers, progress=progress)
        statistics = load_statistics(observed)
        decided = plan(
            checkpoint,
            request.pruning,
            request.formats,
            statistics=statistics,
            imatrix=imatrix,
            unseen_experts=request.unseen_experts,
        )
        checked = check_plan(decided, PlanSources(checkpoint, statistics, imatrix))
        made = work / f"output-{decided.sha256()[:16]}-{observed.stem[-16:]}"
        if not made.exists():
            write_plan(
                checked,
                made,
                copies={STATISTICS: observed},
                workers=workers,
                progress=progress,
            )
        report = measure(made, checkpoint, request.measuring, workers=workers, progress=progress)
        publish(made, out)
    return report


def _refuse_early(checkpoint: Checkpoint, request: ShrinkRequest) -> None:
    """Raise InputError for what would otherwise show only after hours of calibration."""
    check_request(checkpoint, request.pruning)
    outputs = resolve_outputs(request.formats, checkpoint)
    if not outputs:
        raise PlanError("there is nothing to write: name a format with --to, or types with --types")
    everything = Choice(
        dict.fromkeys(checkpoint.moe_layers, tuple(range(checkpoint.experts))), {}, ()
    )
    for output in outputs:
        if format_of(output).goes_along:
            make_plan(checkpoint, everything, [output])
    check_can_measure(checkpoint, request.measuring)


def _with_corpus(calibration: Calibration, model: Model) -> Calibration:
    """gemmule brings its own calibration set; other models need one to be named."""
    if calibration.corpus is None and calibration.rows is None and str(model) == GEMMULE:
        return replace(calibration, corpus=GEMMULE)
    return calibration


def _with_observers(request: ShrinkRequest) -> Calibration:
    """The calibration with the sums that the criterion needs in addition to the built-in ones."""
    needed = find_criterion(request.pruning.criterion).sums
    asked = {*request.calibration.observe, *(name for name in needed if name in OBSERVERS)}
    return replace(request.calibration, observe=tuple(sorted(asked)))


def _statistics_path(checkpoint: Checkpoint, request: ShrinkRequest, work: Path) -> Path:
    """Its name holds the hash of model, corpus request, the files behind it, and our versions."""
    calibration = request.calibration
    decides = {
        "secateur": __version__,
        "versions": versions(),
        "model": checkpoint.identity(),
        "family": checkpoint.facts().get(FAMILY_FILE),
        "calibration": {k: str(v) for k, v in asdict(calibration).items()},
        "files": [
            hashlib.sha256(Path(name).read_bytes()).hexdigest()
            for name in (calibration.corpus, calibration.rows)
            if name is not None and Path(name).is_file()
        ],
    }
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return work / f"statistics-{key[:16]}.safetensors"
