"""Comparing artefacts with each other: which is nearer to the original, on the same tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from secateur.api.held_out import Text, statistics_of
from secateur.api.measure import start
from secateur.api.measuring import Measuring
from secateur.api.models import File, Model, open_weights
from secateur.errors import InputError
from secateur.evaluation.compare import ComparedArtefacts, compare_all
from secateur.outputs.registry import artefacts_of
from secateur.system.folder_lock import in_use
from secateur.system.progress import Progress, no_progress


def compare(
    artefacts: Sequence[File],
    against: Model,
    request: Measuring,
    *,
    work: File | None = None,
    revision: str | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> ComparedArtefacts:
    """Every two of some artefacts: paired differences of all metrics, with intervals.

    An output folder stands for all that it holds; an artefact is called by its path where two have
    one name. What `measure` has scored already, with the same request, is not scored again. Raises
    InputError or EngineError for what cannot be measured, and where there are not two.

    Where nothing is named to measure on, it is what the first one's calibration held out; what of
    it (or of what is named) another one's calibration saw is said (`seen`).
    """
    of_output = {path: Path(given) for given in artefacts for path in artefacts_of(Path(given))}
    paths = [path for given in artefacts for path in artefacts_of(Path(given))]
    if len(paths) < 2:
        raise InputError(
            f"there is nothing to compare {paths[0] if paths else 'nothing'} with: name two "
            "artefacts or more, or an output that holds them"
        )
    twice = [path for path, count in Counter(map(Path.resolve, paths)).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]} is named twice: name every artefact once")
    original = open_weights(against, revision, "comparing")
    text = Text(statistics=statistics_of(Path(artefacts[0])))
    run = start(original, request, text, work, workers, progress)
    opened = [run.open(path) for path in paths]
    names = Counter(one.name for one in opened)
    with in_use(run.folder):
        answers, teacher = run.ask_original()
        floor = run.measure_floor(answers, teacher)
        called = {
            one.name if names[one.name] == 1 else str(path): (path, one)
            for path, one in zip(paths, opened, strict=True)
        }
        scores = {name: run.score(one, answers, teacher) for name, (_, one) in called.items()}
    seen = [run.find_seen(name, answers, of_output[path]) for name, (path, _) in called.items()]
    return replace(compare_all(scores, answers, floor), seen=tuple(seen))
