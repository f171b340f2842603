"""`--estimate`: what a command would take, without doing it."""

from __future__ import annotations

from pathlib import Path

from secateur.api.answers import check_can_measure, expected_work, measure_folder
from secateur.api.apply import open_planned
from secateur.api.asking_work import asking_notes
from secateur.api.calibrate import check_parts, load_libraries
from secateur.api.calibrate_parts import count_parts
from secateur.api.estimating import Task, check_can_estimate, estimate
from secateur.api.held_out import Text, find_questions, held_out_prompts, statistics_of
from secateur.api.measuring import Measuring
from secateur.api.models import File, Model, open_weights
from secateur.api.requests import Calibration
from secateur.api.text import build_corpus, check_text
from secateur.cluster.running import Running, running_with
from secateur.estimation.stage import Estimate
from secateur.outputs.registry import artefacts_of
from secateur.planning.document import read_plan
from secateur.planning.rounding import ROUNDING
from secateur.system.progress import Progress, no_progress
from secateur.system.resources import cores


def estimate_calibration(
    model: Model,
    out: File,
    request: Calibration,
    *,
    revision: str | None = None,
    workers: int | Running | None = None,
    progress: Progress = no_progress,
) -> Estimate:
    """What `calibrate` would take. Reads the text, and tries a few seconds of what is long.

    Raises CorpusError and CheckpointError as `calibrate` does, RequestError for another device, or
    other machines.
    """
    checkpoint, running = open_weights(model, revision, "calibrating"), running_with(workers)
    check_parts(request, running)
    check_text(checkpoint, request)
    load_libraries(progress)
    check_can_estimate(running, request.device)
    corpus = build_corpus(checkpoint, request, progress)
    parts = count_parts(running, checkpoint, corpus, request.device)
    task = Task(Path(out), corpus, request, parts=parts)
    return estimate(checkpoint, task, workers=running.workers, progress=progress)


def estimate_applying(
    plan: File,
    out: File,
    *,
    model: Model | None = None,
    family: File | None = None,
    device: str = "cpu",
    workers: int | Running | None = None,
    progress: Progress = no_progress,
) -> Estimate:
    """What `apply` of a plan would take. Raises PlanError and CheckpointError as it does, and
    RequestError for other machines, and for another device that would choose codes."""
    running = running_with(workers)
    decided = read_plan(Path(plan))
    checkpoint = open_planned(decided, model, family)
    load_libraries(progress)
    check_can_estimate(running, *([device] if ROUNDING in decided.selection else []))
    task = Task(Path(out), plan=decided, running=running)
    return estimate(checkpoint, task, workers=running.workers, progress=progress)


def estimate_measuring(
    out: File,
    against: Model,
    request: Measuring,
    *,
    revision: str | None = None,
    workers: int | Running | None = None,
    progress: Progress = no_progress,
) -> Estimate:
    """What `measure` would take, were nothing of the original kept from before.

    Raises InputError or EngineError for what cannot be measured, RequestError for another device,
    or other machines.
    """
    out, original = Path(out), open_weights(against, revision, "measuring")
    running, text = running_with(workers), Text(statistics=statistics_of(out))
    check_can_measure(original, request, text)
    load_libraries(progress)
    check_can_estimate(running, request.device)
    from secateur.forward.backends.cpu import CpuBackend

    asked = None
    if find_questions(original, request, text) is None:
        folder = measure_folder(original)
        asked = held_out_prompts(original, request, text, folder, progress)
    backend = CpuBackend(running.workers or cores())
    answering, scoring = expected_work(original, request, asked, backend)
    names = {path.name: f"{path.name}: " for path in artefacts_of(out)}
    quantized = sum(path != out for path in artefacts_of(out))
    notes = asking_notes(original, request, quantized)
    task = Task(
        out, answering=answering, scoring=scoring, artefacts=names, notes=notes, running=running
    )
    return estimate(original, task, workers=running.workers, progress=progress)
