"""What a run of `shrink` will do, for an estimate: counted as its stages themselves count."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from secateur.api.answers import expected_work
from secateur.api.asking_work import asking_notes
from secateur.api.estimating import Task
from secateur.api.requests import ShrinkRequest
from secateur.checkpoint.reader import Checkpoint
from secateur.outputs.gguf.format import TOWER
from secateur.outputs.registry import DEFAULT_TO
from secateur.planning.document import Plan
from secateur.planning.rounding import ROUNDING

if TYPE_CHECKING:
    from secateur.corpus.rows import Corpus
    from secateur.evaluation.tokens.prompts import PromptSet
    from secateur.forward.backends.base import Backend


def work_of(
    checkpoint: Checkpoint,
    request: ShrinkRequest,
    planned: Plan,
    out: Path,
    text: tuple[Corpus | None, PromptSet | None],
    backend: Backend,
) -> Task:
    """The task of a run. `text` is what is calibrated on, and what a corpus held out to be asked.

    Raises InputError for prompts or answers that cannot be used.
    """
    corpus, asked = text
    answering = scoring = None
    if request.measuring is not None:
        answering, scoring = expected_work(checkpoint, request.measuring, asked, backend)
    artefacts, measuring = artefacts_in(planned), request.measuring
    quantized = sum(name not in DEFAULT_TO for name in artefacts)
    return Task(
        out,
        corpus,
        request.calibration,
        planned,
        answering,
        scoring,
        artefacts if scoring is not None else {},
        feedback=_rounds(request, planned, corpus is not None),
        notes=() if measuring is None else asking_notes(checkpoint, measuring, quantized),
    )


def _rounds(request: ShrinkRequest, planned: Plan, calibrates: bool) -> bool:
    """Whether levels will be chosen with feedback, which a plan before a calibration cannot say."""
    wanted = calibrates and request.calibration.gram != "none" and bool(planned.recipes)
    return ROUNDING in planned.selection or (wanted and request.formats.rounding != "nearest")


def artefacts_in(planned: Plan) -> dict[str, str]:
    """{artefact that will be measured: how its stages are called} of a plan."""
    found = {}
    for format_id, files in planned.files.items():
        name = next(iter(files), "").partition("/")[0]
        if format_id in DEFAULT_TO:
            found[format_id] = f"{format_id}: "
        elif not format_id.startswith(TOWER) and name:
            found[name] = f"{name}: "
    return found
