"""Tasks of models that are no output of ours: any OpenAI-compatible server, and logs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from secateur.api.held_out import calibrated_text_of
from secateur.api.keep_asked import MODEL, Keep
from secateur.api.measuring import Measuring
from secateur.api.models import File
from secateur.api.subjects import Asked, Subject, url_subject
from secateur.api.tasks import Answered, evidence_of, items_of, measure_tasks
from secateur.corpus.text_hashes import TextHashes
from secateur.errors import RequestError
from secateur.evaluation.asking.request import Serving
from secateur.evaluation.gate import check_gates, check_measured
from secateur.evaluation.tasks.inspect_log import ENDINGS, read_inspect_log
from secateur.evaluation.tasks.request import Tasks
from secateur.release.evidence import ORIGINAL, Evidence, Items, asked_of_artefacts
from secateur.serving.chat_server import is_url, public_address
from secateur.system.atomic import writing
from secateur.system.cache import model_folder, name_model
from secateur.system.folder_lock import in_use
from secateur.system.progress import Progress, no_progress

_BY_NAME = (
    "a server's model is known by its name and address alone: give another work folder when "
    "another model is served there"
)


@dataclass(frozen=True)
class _Place:
    """What the model is called in the evidence, the folder that keeps its answers, and the text
    that it was calibrated on, where an output says so."""

    name: str
    work: Path | None
    calibrated: TextHashes | None


def is_elsewhere(target: str) -> bool:
    """Whether a target is a server or a log, and not a file or folder of a model."""
    return is_url(target) or target.endswith(ENDINGS)


def measure_elsewhere(
    target: str,
    against: str | None,
    request: Measuring,
    *,
    work: File | None = None,
    keep: Keep | None = None,
    progress: Progress = no_progress,
) -> Evidence:
    """Tasks of the model behind an address, or those in a log of inspect-ai, and beside them those
    of the original: an address or a log likewise.

    `work` keeps what was answered (default: a folder of the cache), `keep` the results, with every
    item and the locks. Raises RequestError or OutputError for what cannot be, EngineError when a
    server ends, WriteError.
    """
    if against is not None and is_url(against) != is_url(target):
        raise RequestError(
            f"{target} and {against} cannot be compared: give two servers, or two logs"
        )
    _check(target, against, request)
    _check_serving(target, against, request.serving)
    if work is not None and not is_url(target):
        raise RequestError(f"{target} is a log, of which nothing is kept: leave out work")
    name = MODEL if keep is None else keep.check()
    if is_url(target):
        calibrated = calibrated_text_of(keep.folder) if keep and keep.is_output else None
        place = _Place(name, None if work is None else Path(work), calibrated)
        evidence, items = _measure_servers(target, against, request, place, progress)
    else:
        evidence, items = _read_logs(target, against, request, name)
    if keep is not None:
        if keep.is_output:
            said = f"{name} was asked as {_public(target)}: nothing proves which weights were there"
            evidence = replace(evidence, notes=(*evidence.notes, said))
        asked = {
            "target": _public(target),
            "against": None if against is None else _public(against),
            "gates": [str(gate) for gate in request.limits],
        }
        keep.write(evidence, items, asked)
    return evidence


def _public(target: str) -> str:
    return public_address(target) if is_url(target) else Path(target).name


def hold_to_limits(evidence: Evidence, request: Measuring) -> None:
    """Raise GateError when a number of what was asked misses a limit, InputError when it was not
    measured."""
    check_gates(request.limits, asked_of_artefacts([evidence]))


def _check(target: str, against: str | None, request: Measuring) -> None:
    """Raise RequestError for what is not asked of a server, or not read out of a log."""
    if beside := [kind for kind in request.kinds if kind != "tasks"]:
        raise RequestError(
            f"{target} is measured by tasks alone: leave out {' and '.join(beside)}, or measure "
            "the files"
        )
    if request.tasks is not None and not is_url(target):
        raise RequestError(
            f"{target} is a log, which holds its task already: leave out tasks "
            f"{', '.join(request.tasks.names)}"
        )
    for gate in request.limits:
        if gate.kind is None:
            raise RequestError(
                f"the gate {gate} is a limit to divergence, which needs the weights: {target} is "
                "measured by tasks"
            )
    check_measured(request.limits, ("tasks",), against is not None)


def _check_serving(target: str, against: str | None, serving: Serving) -> None:
    """Raise RequestError for what is about engines of ours, or about asking where a log is read."""
    unused = {
        "original (against names it here)": serving.original is not None,
        "context": serving.context is not None,
        "gpu_layers": serving.gpu_layers is not None,
        "original_model": serving.original_model is not None and against is None,
    }
    if not is_url(target):
        unused |= {
            "original_model": serving.original_model is not None,
            "served_model": serving.model is not None,
            "slots": serving.slots != Serving().slots,
            "retry_errors": serving.retry_errors,
        }
    if odd := [name for name, is_given in unused.items() if is_given]:
        kind = "a server of its own" if is_url(target) else "a log, in which all is answered"
        raise RequestError(f"{target} is {kind}: leave out {odd[0]}")


def _measure_servers(
    url: str,
    against: str | None,
    request: Measuring,
    place: _Place,
    progress: Progress,
) -> tuple[Evidence, Items]:
    if request.tasks is None:
        raise RequestError(
            f"{url}: a server is measured by tasks, as in --tasks reasoning; divergence needs the "
            "weights"
        )
    serving = request.serving
    named = public_address(url)
    folder = place.work or model_folder(sha256(named.encode()).hexdigest())
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    name_model(folder, named)
    first = _original(against, serving)
    subjects = (*first, url_subject(place.name, url, serving.model))
    asked = Asked(subjects, serving, folder, progress=progress, notes=(_BY_NAME,))
    with in_use(folder):
        return measure_tasks(asked, request.tasks, place.calibrated)


def _original(against: str | None, serving: Serving) -> tuple[Subject, ...]:
    return () if against is None else (url_subject(ORIGINAL, against, serving.original_model),)


def _read_logs(
    path: str, against: str | None, request: Measuring, called: str
) -> tuple[Evidence, Items]:
    named = [(called, path)] if against is None else [(ORIGINAL, against), (called, path)]
    logs = [(name, read_inspect_log(Path(file))) for name, file in named]
    answered = [Answered(name, (log.result,), log.lock) for name, log in logs]
    asked = Tasks((logs[-1][1].result.task,), protocol="as logged")
    notes = [
        f"{name}: {log.model}, {file}" for (name, log), (_, file) in zip(logs, named, strict=True)
    ]
    anyway = request.serving.compare_anyway
    return evidence_of(answered, asked, notes=notes, anyway=anyway), items_of(answered)
