"""The whole line in one go: calibrate, plan, apply, measure, report; resumes where it stopped.

Everything is made in a work folder beside the output. A stage's result is a file that is whole
or absent, under a name that holds the hash of all that decides it; so an interrupted run finds
what it had finished, and a run with another request finds nothing of the old one. At the end the
result is renamed to its place and the work folder goes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from secateur import __version__
from secateur.api import verbs
from secateur.checkpoint.hub import GEMMULE
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.errors import PlanError
from secateur.outputs.apply import Sources, check_plan, write_output
from secateur.outputs.build import is_tower, make_plan
from secateur.outputs.gguf.mmproj import mmproj_layout
from secateur.planning.document import Plan
from secateur.planning.imatrix_policy import read_imatrix_file
from secateur.planning.unseen_experts import Policy
from secateur.pruning.choose import Pruning, check_request, choose
from secateur.recipes.layer_importance import layer_importance
from secateur.recipes.recipe import Recipe
from secateur.release.manifest import MANIFEST, versions, write_manifest
from secateur.release.report import Report
from secateur.statistics import statistics as statistics_file
from secateur.statistics.statistics import Statistics
from secateur.system.atomic import atomic_path
from secateur.system.progress import Progress, no_progress
from secateur.system.resources import cores
from secateur.system.workdir import publish, work_folder

STATISTICS = "statistics.safetensors"


@dataclass(frozen=True)
class ShrinkRequest:
    """All that a run is asked for."""

    pruning: Pruning
    formats: verbs.Formats = verbs.Formats()
    calibration: verbs.Calibration = verbs.Calibration()
    measuring: verbs.Measuring = verbs.Measuring()
    imatrix: Path | None = None
    unseen_experts: Policy = "uniform"


def shrink(
    model: str | Path,
    out: verbs.File,
    request: ShrinkRequest,
    *,
    revision: str | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Make `out` from `model`; returns the report, which also lies in `out`.

    Raises OutputError when `out` exists; see the verbs for the rest. Interrupted, it leaves
    `out` absent and the work folder beside it, and goes on from there the next time.
    """
    out = Path(out)
    checkpoint = open_checkpoint(model, revision)
    request = replace(request, calibration=_with_corpus(request.calibration, model))
    imatrix = read_imatrix_file(request.imatrix, checkpoint) if request.imatrix else None
    _refuse_early(checkpoint, request)
    with work_folder(out) as work:
        statistics = _statistics(checkpoint, request, work, workers, progress)
        choice = choose(checkpoint, statistics, request.pruning)
        plan = make_plan(
            checkpoint,
            choice,
            request.formats.outputs_of(checkpoint),
            statistics,
            imatrix=imatrix,
            unseen_experts=request.unseen_experts,
            layer_importance=layer_importance(
                request.formats.layer_importance, statistics, checkpoint.layers
            ),
            split=request.formats.split_max_size,
        )
        sources = Sources(checkpoint, statistics, imatrix)
        check_plan(plan, sources)
        observed = _statistics_path(checkpoint, request, work)
        made = work / f"output-{plan.sha256()[:16]}-{observed.stem[-16:]}"
        if not (made / MANIFEST).exists():
            _write(plan, sources, made, observed, workers, progress)
        report = verbs.measure(
            made, checkpoint, request.measuring, work=work, workers=workers, progress=progress
        )
        publish(made, out)
    return report


def _write(
    plan: Plan,
    sources: Sources,
    made: Path,
    observed: Path,
    workers: int | None,
    progress: Progress,
) -> None:
    """All files of the plan, the statistics behind it (`observed`), and the manifest last."""
    made.mkdir(exist_ok=True)
    hashes = write_output(
        plan,
        sources,
        made,
        workers=workers or cores(),
        progress=progress,
    )
    with atomic_path(made / STATISTICS) as partial:
        shutil.copyfile(observed, partial)
    write_manifest(made, verbs.facts(plan, sources.statistics), hashes)


def _refuse_early(checkpoint: Checkpoint, request: ShrinkRequest) -> None:
    """Raise InputError for what would otherwise show only after hours of calibration."""
    from secateur.api.measure import measured_on

    check_request(checkpoint, request.pruning)
    outputs = request.formats.outputs_of(checkpoint)
    if not outputs:
        raise PlanError("there is nothing to write: name a format with --to, or types with --types")
    for output in outputs:
        if isinstance(output, Recipe) and is_tower(output):
            mmproj_layout(checkpoint, checkpoint.experts, output)
    measured_on(checkpoint, request.measuring)


def _with_corpus(calibration: verbs.Calibration, model: str | Path) -> verbs.Calibration:
    """gemmule brings its own calibration set; other models need one to be named."""
    if calibration.corpus is None and calibration.rows is None and str(model) == GEMMULE:
        return replace(calibration, corpus=GEMMULE)
    return calibration


def _statistics(
    checkpoint: Checkpoint,
    request: ShrinkRequest,
    work: Path,
    workers: int | None,
    progress: Progress,
) -> Statistics:
    path = _statistics_path(checkpoint, request, work)
    if path.exists():
        return statistics_file.load(path)
    return verbs.calibrate(
        checkpoint, path, request.calibration, workers=workers, progress=progress
    )


def _statistics_path(checkpoint: Checkpoint, request: ShrinkRequest, work: Path) -> Path:
    """Its name holds the hash of model, corpus request, the files behind it, and our versions."""
    calibration = request.calibration
    decides = {
        "secateur": __version__,
        "versions": versions(),
        "model": checkpoint.identity(),
        "calibration": {k: str(v) for k, v in asdict(calibration).items()},
        "files": [
            hashlib.sha256(Path(name).read_bytes()).hexdigest()
            for name in (calibration.corpus, calibration.rows)
            if name is not None and Path(name).is_file()
        ],
    }
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return work / f"statistics-{key[:16]}.safetensors"
