"""`--estimate`: what a command would take, without doing it."""

from __future__ import annotations

from pathlib import Path

from secateur.api.calibrate import load_libraries
from secateur.api.estimating import Task, estimate
from secateur.api.models import File, Model, open_weights
from secateur.api.requests import Calibration
from secateur.api.text import build_corpus, check_text
from secateur.errors import RequestError
from secateur.estimation.stage import Estimate
from secateur.system.progress import Progress, no_progress


def estimate_calibration(
    model: Model,
    out: File,
    request: Calibration,
    *,
    revision: str | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Estimate:
    """What `calibrate` would take. Reads the text, and tries a few seconds of what is long.

    Raises CorpusError and CheckpointError as `calibrate` does.
    """
    checkpoint = open_weights(model, revision, "calibrating")
    check_text(checkpoint, request)
    load_libraries(progress)
    corpus = build_corpus(checkpoint, request, progress)
    from secateur.forward.backends.choose import is_cpu

    if not is_cpu(request.device):
        raise RequestError(
            f"device {request.device}: estimates are made for the CPU: add --device cpu"
        )
    task = Task(Path(out), corpus, request)
    return estimate(checkpoint, task, workers=workers, progress=progress)
