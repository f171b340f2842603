"""All steps in one go: calibrate, plan, apply, measure, report; resumes where it was stopped.

Everything is made in a work folder next to the output. A stage's result is a file that is whole
or absent, under a name that holds the hash of all that decides it (of the corpus: its content);
so an interrupted run finds what it had finished, and a run with another request finds nothing of
the old one. Within a stage, calibrating goes on at the layer where it was stopped (api.calibrate)
and writing at the tensor. At the end the result is renamed to its place and the work folder is
removed. The original's answers and probabilities are kept in the user's cache folder, as are Gram
matrices, and the statistics in the output, for the next variant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING

from secateur.api.answers import check_can_tokenize, measure_folder
from secateur.api.apply import write_plan
from secateur.api.calibrate import check_model, load_libraries, observe
from secateur.api.calibrate_parts import count_parts
from secateur.api.early_checks import check_shrink, needs_calibration
from secateur.api.estimating import (
    Task,
    announce,
    check_can_estimate,
    estimate,
)
from secateur.api.grams import keep_gram, load_gram
from secateur.api.held_out import (
    Text,
    describe_held_out,
    evidence_files,
    find_questions,
    held_out_prompts,
    make_prompts,
    preview_prompts,
    share_of,
)
from secateur.api.job_content import (
    MODEL,
    ROWS,
    check_content,
    check_files,
    resolved_job,
    with_mix,
)
from secateur.api.job_file import JOB
from secateur.api.models import (
    File,
    Model,
    load_header,
    load_imatrix,
    load_statistics,
    open_weights,
)
from secateur.api.original_gguf import check_room
from secateur.api.plan import plan
from secateur.api.requests import Calibration, ShrinkRequest
from secateur.api.shrink_work import work_of
from secateur.api.statistics_key import statistics_key
from secateur.api.text import build_corpus
from secateur.checkpoint.hub import GEMMULE
from secateur.checkpoint.reader import Checkpoint
from secateur.cluster.running import Running, running_with
from secateur.errors import SecateurError
from secateur.outputs.apply import CheckedPlan, check_plan
from secateur.planning.checks import PlanSources
from secateur.planning.document import Plan
from secateur.planning.rounding import ROUNDING, Rounding
from secateur.pruning.criteria.registry import find_criterion
from secateur.system.atomic import remove_partials, write_text
from secateur.system.progress import Progress, no_progress
from secateur.system.resources import cores
from secateur.system.stopwatch import timed
from secateur.system.workdir import publish, refuse_existing, work_folder

if TYPE_CHECKING:
    from secateur.corpus.rows import Corpus
    from secateur.estimation.stage import Estimate
    from secateur.evaluation.tokens.prompts import PromptSet
    from secateur.release.report import Report


@dataclass(frozen=True)
class _Job:
    """What all stages of one call share."""

    checkpoint: Checkpoint
    request: ShrinkRequest
    running: Running
    on_message: Callable[[str], None]
    progress: Progress

    @property
    def text(self) -> Text:
        """Where a share to measure on may come from."""
        return Text(self.request.calibration, load_header(self.request.statistics))


def shrink(
    model: Model,
    out: File,
    request: ShrinkRequest,
    *,
    revision: str | None = None,
    workers: int | Running | None = None,
    on_message: Callable[[str], None] = lambda sentence: None,
    progress: Progress = no_progress,
) -> Report | None:
    """Make `out` from `model`; returns the report, which is also written into `out`.

    None when nothing is measured. `workers` are threads, or say that calibrating, writing and
    measuring are done in parts, and by whom (cluster.running). Raises OutputError when `out`
    exists; see the other commands for the rest. Interrupted, it leaves `out` absent and the work
    folder next to it; the next call resumes from there. When only measuring fails, `out` is in its
    place and the error is a plain SecateurError.
    """
    out, stopwatch = Path(out), timed(progress)
    progress = stopwatch
    refuse_existing(out)
    checkpoint = open_weights(model, revision, "shrinking")
    request = _complete(request, checkpoint)
    running = running_with(workers)
    job = _Job(checkpoint, request, running, on_message, progress)
    planned = check_shrink(checkpoint, request, out)
    files = check_files(request, checkpoint, progress)
    check_content(request, MODEL, checkpoint.identity(progress, running.threads), checkpoint.name)
    if request.measuring is not None:
        if request.measuring.kinds and request.measuring.serving.original is None:
            check_room(checkpoint, measure_folder(checkpoint))
        load_libraries(progress)
        check_can_tokenize(checkpoint, request.measuring, job.text)
    with work_folder(out) as work:
        corpus = _corpus(job) if needs_calibration(checkpoint, request, planned) else None
        asked = _questions(job, corpus)
        stopwatch.estimate = _announce(job, planned, out, (corpus, asked))
        observed = request.statistics if corpus is None else _observe(job, corpus, work)
        made = _write(job, observed, files, work)
        report, failure = _measure(job, made, asked)
        if corpus is not None and observed is not None:
            _keep_gram(job, observed)
        publish(made, out)
    if failure is not None:
        again = join(["secateur", "measure", str(out), "--against", checkpoint.source])
        asked_too = request.measuring is not None and request.measuring.kinds
        more = " and the options of tasks, loops and speed" if asked_too else ""
        raise SecateurError(
            f"{out} is written and complete, but could not be measured: {failure}; try again with "
            f"`{again}`{more}"
        )
    return report


def estimate_shrink(
    model: Model,
    out: File,
    request: ShrinkRequest,
    *,
    revision: str | None = None,
    workers: int | Running | None = None,
    progress: Progress = no_progress,
) -> Estimate:
    """What `shrink` would take: reads headers and text, tries a few seconds, and writes nothing.

    Raises as `shrink` does for what it can refuse at once, and RequestError for another device, or
    other machines.
    """
    out = Path(out)
    checkpoint = open_weights(model, revision, "shrinking")
    request = _complete(request, checkpoint)
    planned = check_shrink(checkpoint, request, out)
    load_libraries(progress)
    corpus = asked = None
    calibrates = needs_calibration(checkpoint, request, planned)
    check_can_estimate(running_with(workers), *_devices(request, calibrates=calibrates))
    if calibrates:
        corpus = build_corpus(checkpoint, request.calibration, progress)
        asked = preview_prompts(checkpoint, corpus) if corpus.held_out else None
    job = _Job(checkpoint, request, running_with(workers), lambda sentence: None, progress)
    if asked is None and request.measuring is not None:
        found = _questions(job, corpus)
        asked = None if isinstance(found, Text) else found
    task = _task(job, planned, out, (corpus, asked))
    return estimate(checkpoint, task, workers=job.running.threads, progress=progress)


def _announce(
    job: _Job, planned: Plan, out: Path, text: tuple[Corpus | None, PromptSet | Text]
) -> Estimate | None:
    """Say what the run will take, where it is long; None where it is not known: on a device, or
    on other machines."""
    from secateur.forward.backends.choose import is_cpu

    devices = _devices(job.request, calibrates=text[0] is not None)
    if not all(map(is_cpu, devices)) or job.running.engine != "here":
        return None
    load_libraries(job.progress)
    asked = None if isinstance(text[1], Text) else text[1]
    task = _task(job, planned, out, (text[0], asked))
    return announce(job.checkpoint, task, job.on_message, job.running.workers, job.progress)


def _devices(request: ShrinkRequest, *, calibrates: bool) -> list[str]:
    """Where a request runs models."""
    calibration = [request.calibration.device] if calibrates else []
    return calibration + ([request.measuring.device] if request.measuring is not None else [])


def _task(
    job: _Job, planned: Plan, out: Path, text: tuple[Corpus | None, PromptSet | None]
) -> Task:
    from secateur.forward.backends.cpu import CpuBackend

    backend = CpuBackend(job.running.threads or cores())
    task = work_of(job.checkpoint, job.request, planned, out, text, backend)
    task = replace(task, running=job.running)
    if text[0] is None:
        return task
    device = job.request.calibration.device
    return replace(task, parts=count_parts(job.running, job.checkpoint, text[0], device))


def _complete(request: ShrinkRequest, checkpoint: Checkpoint) -> ShrinkRequest:
    """The request with what follows from it: gemmule's own text, the share held out of it, the
    Gram matrices that rounding with feedback needs, and the rounding where none are made.

    gemmule brings its own calibration set; for other models one has to be named.
    """
    calibration, measuring = request.calibration, request.measuring
    if not (calibration.text or request.statistics) and checkpoint.source == GEMMULE:
        calibration = replace(calibration, corpus=GEMMULE)
    formats = request.formats
    if not request.statistics and calibration.gram == "none":
        if formats.rounding == "feedback":
            calibration = replace(calibration, gram="own")
        else:  # also where an earlier run left Gram matrices of this very text in the cache
            formats = replace(formats, rounding="nearest")
    if measuring is not None and calibration.text and not (measuring.corpus or measuring.rows):
        text = Text(calibration)
        if find_questions(checkpoint, measuring, text) is None:
            calibration = replace(calibration, held_out=share_of(measuring, calibration))
    return replace(request, calibration=with_mix(calibration), formats=formats)


def _corpus(job: _Job) -> Corpus:
    check_model(job.checkpoint, job.running.threads, job.progress)
    corpus = build_corpus(job.checkpoint, job.request.calibration, job.progress)
    check_content(job.request, ROWS, corpus.sha256, "what the model is calibrated on")
    return corpus


def _questions(job: _Job, corpus: Corpus | None) -> PromptSet | Text:
    """What is measured on, before anything long begins: a file is found by its name again."""
    measuring = job.request.measuring
    if measuring is None or find_questions(job.checkpoint, measuring, job.text) is not None:
        return job.text
    folder = measure_folder(job.checkpoint)
    if corpus is not None and corpus.held_out and not (measuring.corpus or measuring.rows):
        job.on_message(describe_held_out(corpus))
        return make_prompts(job.checkpoint, corpus, None, folder)
    return held_out_prompts(job.checkpoint, measuring, job.text, folder, job.progress)


def _write(job: _Job, observed: Path | None, files: Mapping[str, str], work: Path) -> Path:
    """The finished output in the work folder. `files` are the hashes of what the request reads."""
    request, checkpoint = job.request, job.checkpoint
    statistics, imatrix = load_statistics(observed), load_imatrix(request.imatrix, checkpoint)
    decided = plan(
        checkpoint,
        request.pruning,
        request.formats,
        statistics=observed,
        imatrix=imatrix,
        unseen_experts=request.unseen_experts,
    )
    gram = load_gram(observed)
    checked = check_plan(decided, PlanSources(checkpoint, statistics, imatrix, gram))
    request = _with_rounding(job, decided, gram is not None)
    resolved = resolved_job(request, checkpoint, statistics, files)
    made = work / f"output-{_output_key(checked, resolved)}"
    if not made.exists():
        write_text(work / JOB, resolved)
        copies = {JOB: work / JOB, **evidence_files(observed)}
        write_plan(checked, made, copies=copies, workers=job.running, progress=job.progress)
    return made


def _keep_gram(job: _Job, statistics: Path) -> None:
    if kept := keep_gram(statistics, job.checkpoint.name):
        job.on_message(kept)


def _with_rounding(job: _Job, decided: Plan, has_gram: bool) -> ShrinkRequest:
    """The request with the rounding that the plan decided; says so where statistics lack what
    feedback needs."""
    request = job.request
    wanted = request.formats.rounding
    rounds = ROUNDING in decided.selection
    if wanted is None and request.statistics is not None and not has_gram and decided.recipes:
        job.on_message(
            f"levels are the nearest ones: there are no Gram matrices of {request.statistics}, "
            "neither next to it nor in the cache (`calibrate --gram own` makes them)"
        )
    word: Rounding = "feedback" if rounds else "nearest"
    return replace(request, formats=replace(request.formats, rounding=wanted or word))


def _measure(job: _Job, made: Path, asked: PromptSet | Text) -> tuple[Report | None, str | None]:
    """(report, why there is none): a failure must not cost the files that are finished."""
    request = job.request.measuring
    if request is None:
        return None, None
    try:
        remove_partials(made)  # nobody else writes to the work folder
        load_libraries(job.progress)
        from secateur.api.measure import measure_output, start

        run = start(job.checkpoint, request, asked, None, job.running, job.progress)
        return measure_output(made, run), None
    except (SecateurError, MemoryError, OSError) as error:
        return None, str(error) or "out of memory"


def _observe(job: _Job, corpus: Corpus, work: Path) -> Path:
    """The statistics of an interrupted run on the same rows, or new ones."""
    calibration = _with_observers(job.request)
    key = statistics_key(job.checkpoint, corpus, calibration)
    path = work / f"statistics-{key}.safetensors"
    lacks_gram = calibration.gram != "none" and path.exists() and load_gram(path) is None
    if not path.exists() or lacks_gram:
        observe(
            job.checkpoint,
            corpus,
            calibration,
            path,
            workers=job.running,
            on_message=job.on_message,
            progress=job.progress,
        )
    return path


def _with_observers(request: ShrinkRequest) -> Calibration:
    """The calibration with the sums that the criterion needs in addition to the built-in ones."""
    from secateur.calibration.observers.registry import OBSERVERS

    needed = find_criterion(request.pruning.criterion).sums
    asked = {*request.calibration.observe, *(name for name in needed if name in OBSERVERS)}
    return replace(request.calibration, observe=tuple(sorted(asked)))


def _output_key(checked: CheckedPlan, job: str) -> str:
    """A hash of all that decides an output's files."""
    return hashlib.sha256(f"{checked.key()} {job}".encode()).hexdigest()[:16]
