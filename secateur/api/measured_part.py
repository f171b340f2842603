"""A part of a measurement: some answers, what the original says of them, how an artefact differs.

What is sent to other machines to make one, and making it (see api.measure_parts).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from secateur.checkpoint.reader import Checkpoint
from secateur.checkpoint.shared_model import SharedModel
from secateur.errors import InputError
from secateur.evaluation.floor import measure_floor
from secateur.evaluation.kept_experts import Kept
from secateur.evaluation.scores import save_scores, score
from secateur.evaluation.tokens.answers import AnswerSet
from secateur.evaluation.tokens.teacher import Teacher, save_teacher, teach
from secateur.forward.backends.base import Backend
from secateur.forward.backends.choose import choose_backend
from secateur.forward.weights import CheckpointWeights
from secateur.outputs.base import Artefact
from secateur.outputs.identity import identify
from secateur.outputs.registry import open_artefact

ORIGINAL, SCORES = "original.safetensors", "scores.safetensors"
"""A part's file."""


@dataclass(frozen=True)
class SharedMeasuring:
    """What all parts have in common, as it is sent to other machines."""

    original: SharedModel
    device: str


@dataclass
class OpenMeasuring:
    """The same with the original opened, and artefacts as they are asked for."""

    original: Checkpoint
    device: str
    artefacts: dict[str, Artefact] = field(default_factory=dict)

    def artefact(self, path: str, identity: str, threads: int) -> Artefact:
        """Raises InputError where it is not there, or is another one."""
        if path not in self.artefacts:
            if not Path(path).exists():
                raise InputError(
                    f"{path} is not there on this machine: put the output on a disk that all "
                    "machines see, or copy it to the same path on each"
                )
            artefact = open_artefact(Path(path), self.original, workers=threads)
            if identify(artefact, threads) != identity:
                raise InputError(
                    f"{path} is another model on this machine: copy the same files to every machine"
                )
            self.artefacts[path] = artefact
        return self.artefacts[path]

    def backend(self, threads: int) -> Backend:
        """Where a part is run."""
        return choose_backend(self.device, workers=threads)


class ScoringPart(NamedTuple):
    """An artefact, and the answers of a part with what the original says of them."""

    path: str
    identity: str
    kept: Kept | None
    teacher: Teacher
    answers: AnswerSet


class FloorPart(NamedTuple):
    """What the floor is measured on: a part of its own."""

    teacher: Teacher
    answers: AnswerSet


def open_measuring(shared: SharedMeasuring) -> OpenMeasuring:
    """Raises CheckpointError as `SharedModel.open`."""
    return OpenMeasuring(shared.original.open(), shared.device)


def teach_part(inputs: OpenMeasuring, answers: AnswerSet, folder: Path, threads: int) -> None:
    """What the original says of a part's answers."""
    source, identity = CheckpointWeights(inputs.original), inputs.original.identity()
    found = teach(source, identity, answers, backend=inputs.backend(threads))
    save_teacher(found, folder / ORIGINAL)


def score_part(
    inputs: OpenMeasuring, part: ScoringPart | FloorPart, folder: Path, threads: int
) -> None:
    """The scores of an artefact on a part's answers, or those of the floor."""
    backend = inputs.backend(threads)
    if isinstance(part, FloorPart):
        source = CheckpointWeights(inputs.original)
        measure_floor(part.teacher, source, part.answers, folder, backend=backend)
        return
    artefact = inputs.artefact(part.path, part.identity, threads)
    found = score(
        part.teacher, artefact.source, part.identity, part.answers, kept=part.kept, backend=backend
    )
    save_scores(found, folder / SCORES)
