"""The whole line in one go: calibrate, plan, apply, measure, report; resumes at a finished stage.

Everything is made in a work folder next to the output. A stage's result is a file that is whole
or absent, under a name that holds the hash of all that decides it (of the corpus: its content);
so an interrupted run finds what it had finished, and a run with another request finds nothing of
the old one. At the end the result is renamed to its place and the work folder is removed. The
original's answers and probabilities are kept in the user's cache folder, and the statistics in
the output, for the next variant.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from secateur import __version__
from secateur.api.answers import check_can_tokenize
from secateur.api.apply import write_plan
from secateur.api.calibrate import build_corpus, check_model, load_libraries, observe
from secateur.api.early_checks import check_shrink
from secateur.api.job_content import (
    MODEL,
    ROWS,
    check_content,
    check_files,
    resolved_job,
    with_mix,
)
from secateur.api.job_file import JOB
from secateur.api.models import File, Model, load_imatrix, open_weights
from secateur.api.plan import plan
from secateur.api.requests import Calibration, Measuring, ShrinkRequest
from secateur.checkpoint.hub import GEMMULE
from secateur.checkpoint.reader import FAMILY_FILE, Checkpoint
from secateur.errors import SecateurError
from secateur.outputs.apply import CheckedPlan, check_plan
from secateur.planning.checks import PlanSources
from secateur.pruning.criteria.registry import find_criterion
from secateur.release.manifest import versions
from secateur.statistics import file as statistics_file
from secateur.system.atomic import remove_partials, write_text
from secateur.system.progress import Progress, no_progress
from secateur.system.stopwatch import timed
from secateur.system.workdir import publish, refuse_existing, work_folder

if TYPE_CHECKING:
    from secateur.corpus.rows import Corpus
    from secateur.release.report import Report

STATISTICS = "evidence/statistics.safetensors"
"""In a folder of its own: some loaders take every *.safetensors next to config.json for weights."""


def shrink(
    model: Model,
    out: File,
    request: ShrinkRequest,
    *,
    revision: str | None = None,
    workers: int | None = None,
    on_message: Callable[[str], None] = lambda sentence: None,
    progress: Progress = no_progress,
) -> Report | None:
    """Make `out` from `model`; returns the report, which is also written into `out`.

    None when nothing is measured. Raises OutputError when `out` exists; see the other commands
    for the rest. Interrupted, it leaves `out` absent and the work folder next to it; the next
    call resumes from there. When only measuring fails, `out` is in its place and the error is a
    plain SecateurError.
    """
    out, progress = Path(out), timed(progress)
    refuse_existing(out)
    checkpoint = open_weights(model, revision, "shrinking")
    request = replace(request, calibration=with_mix(_with_corpus(request, checkpoint)))
    imatrix = load_imatrix(request.imatrix, checkpoint)
    check_shrink(checkpoint, request, out)
    files = check_files(request, checkpoint, progress)
    check_content(request, MODEL, checkpoint.identity(progress, workers), checkpoint.name)
    if request.measuring is not None:
        load_libraries(progress)
        check_can_tokenize(checkpoint, request.measuring)
    with work_folder(out) as work:
        observed = _observe(checkpoint, request, work, workers, on_message, progress)
        statistics = statistics_file.load(observed)
        decided = plan(
            checkpoint,
            request.pruning,
            request.formats,
            statistics=statistics,
            imatrix=imatrix,
            unseen_experts=request.unseen_experts,
        )
        checked = check_plan(decided, PlanSources(checkpoint, statistics, imatrix))
        job = resolved_job(request, checkpoint, statistics, files)
        made = work / f"output-{_output_key(checked, job)}"
        if not made.exists():
            write_text(work / JOB, job)
            write_plan(
                checked,
                made,
                copies={STATISTICS: observed, JOB: work / JOB},
                workers=workers,
                progress=progress,
            )
        report, failure = _measure(made, checkpoint, request.measuring, workers, progress)
        publish(made, out)
    if failure is not None:
        raise SecateurError(
            f"{out} is written and complete, but could not be measured: {failure}; try again with "
            f"`secateur measure {out} --against {checkpoint.source}`"
        )
    return report


def _measure(
    made: Path,
    checkpoint: Checkpoint,
    request: Measuring | None,
    workers: int | None,
    progress: Progress,
) -> tuple[Report | None, str | None]:
    """(report, why there is none): a failure must not cost the files that are finished."""
    if request is None:
        return None, None
    try:
        remove_partials(made)  # nobody else writes to the work folder
        load_libraries(progress)
        from secateur.api.measure import measure

        return measure(made, checkpoint, request, workers=workers, progress=progress), None
    except (SecateurError, MemoryError, OSError) as error:
        return None, str(error) or "out of memory"


def _observe(
    checkpoint: Checkpoint,
    request: ShrinkRequest,
    work: Path,
    workers: int | None,
    on_message: Callable[[str], None],
    progress: Progress,
) -> Path:
    """The statistics: those given, those of an interrupted run on the same rows, or new ones."""
    if request.statistics is not None:
        return request.statistics
    check_model(checkpoint, workers, progress)
    request = replace(request, calibration=_with_observers(request))
    corpus = build_corpus(checkpoint, request.calibration, progress)
    check_content(request, ROWS, corpus.sha256, "what the model is calibrated on")
    path = work / f"statistics-{_statistics_key(checkpoint, corpus, request)}.safetensors"
    if not path.exists():
        observe(
            checkpoint,
            corpus,
            request.calibration,
            path,
            workers=workers,
            on_message=on_message,
            progress=progress,
        )
    return path


def _with_observers(request: ShrinkRequest) -> Calibration:
    """The calibration with the sums that the criterion needs in addition to the built-in ones."""
    from secateur.calibration.observers.registry import OBSERVERS

    needed = find_criterion(request.pruning.criterion).sums
    asked = {*request.calibration.observe, *(name for name in needed if name in OBSERVERS)}
    return replace(request.calibration, observe=tuple(sorted(asked)))


def _statistics_key(checkpoint: Checkpoint, corpus: Corpus, request: ShrinkRequest) -> str:
    """A hash of all that decides statistics: model, rows, settings, and our versions."""
    calibration = request.calibration
    decides = {
        "secateur": __version__,
        "versions": versions(),
        "model": checkpoint.identity(),
        "family": checkpoint.facts().get(FAMILY_FILE),
        "corpus": corpus.sha256,
        "reroute_tokens": calibration.reroute_tokens,
        "on_nan": calibration.on_nan,
        "observe": calibration.observe,
        "gram": calibration.gram,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _output_key(checked: CheckedPlan, job: str) -> str:
    """A hash of all that decides an output's files."""
    return hashlib.sha256(f"{checked.key} {job}".encode()).hexdigest()[:16]


def _with_corpus(request: ShrinkRequest, checkpoint: Checkpoint) -> Calibration:
    """gemmule brings its own calibration set; for other models one has to be named."""
    calibration = request.calibration
    named = calibration.corpus or calibration.rows or request.statistics
    if named or checkpoint.source != GEMMULE:
        return calibration
    return replace(calibration, corpus=GEMMULE)
