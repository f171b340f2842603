"""Measuring in parts that are put together: to the bytes of one run, whoever makes the parts.

A part is some of the answers (evaluation.parts): first what the original says of them, then what
each artefact does with them. What is put together lies where a run without parts keeps it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from secateur.api.measured_part import (
    ORIGINAL,
    SCORES,
    FloorPart,
    ScoringPart,
    SharedMeasuring,
    open_measuring,
    score_part,
    teach_part,
)
from secateur.calibration.shards import Shard
from secateur.checkpoint.reader import Checkpoint
from secateur.checkpoint.shared_model import share_model
from secateur.cluster.base import Here, Work, Workers
from secateur.cluster.registry import ENGINES
from secateur.cluster.running import PARTS, Running
from secateur.errors import CorpusError
from secateur.evaluation.floor import has_floor, take_some
from secateur.evaluation.kept_experts import Kept, find_kept_experts
from secateur.evaluation.parts import (
    AnswersPart,
    join_scores,
    join_teachers,
    split_answers,
    take_teacher,
)
from secateur.evaluation.scores import Scored, Scores, has_scores, keep_scores, load_scores
from secateur.evaluation.tokens.answers import AnswerSet
from secateur.evaluation.tokens.teacher import (
    Teacher,
    check_same_answers,
    keep_teacher,
    load_teacher,
    teacher_key,
)
from secateur.forward.backends.base import Backend
from secateur.forward.backends.choose import choose_backend
from secateur.forward.batches import ON_CPU, ON_DEVICE
from secateur.forward.weights import CheckpointWeights
from secateur.outputs.base import Artefact
from secateur.outputs.identity import identify
from secateur.system.atomic import write_text
from secateur.system.cache import parts_folder
from secateur.system.progress import Counter, Progress
from secateur.system.workdir import SUFFIX

_FLOOR = "floor"
_TAUGHT = "original-"
"""What the names of parts begin with that hold what the original says."""
_DIGITS = 16
_NAME = "device.txt"


class _Place(NamedTuple):
    """Who makes parts, and the name of the device that they are made on (Backend.name)."""

    workers: Workers
    device: str


class _Subject(NamedTuple):
    """An artefact that is scored."""

    path: Path
    identity: str
    kept: Kept | None

    def name(self, number: int) -> str:
        """Of its part, counted from 1."""
        return f"{self.identity[:_DIGITS]}-{number}"

    def part(self, teacher: Teacher, answers: AnswerSet) -> ScoringPart:
        return ScoringPart(str(self.path.absolute()), self.identity, self.kept, teacher, answers)


@dataclass(frozen=True)
class MeasuringInParts:
    """One measurement in parts.

    `backend` is this machine's, for `device`. Parts are kept in a folder of their own in `folder`
    until they are put together; what was put together is in `folder`, too.
    """

    original: Checkpoint
    device: str
    backend: Backend
    running: Running
    folder: Path
    progress: Progress

    def teach(self, answers: AnswerSet) -> Teacher:
        """What the original says of all answers, kept as `teacher_for` keeps it."""
        with self._engine() as place:

            def make() -> Teacher:
                parts = self._split(answers, place, self.running.parts or PARTS)
                home = self._home(answers, place, len(parts))
                names = [f"{_TAUGHT}{number}" for number in range(1, len(parts) + 1)]
                work = {name: part.answers for name, part in zip(names, parts, strict=True)}
                self._make(place, teach_part, work, home, "original")
                files = [home / name / ORIGINAL for name in names]
                return join_teachers(answers, parts, list(map(_load_part, files, parts)))

            key = self._teacher_key(answers, place)
            return keep_teacher(key, answers, self.folder, make, self.progress)

    def score(self, answers: AnswerSet, teacher: Teacher, artefacts: Sequence[Artefact]) -> None:
        """Score all artefacts, and the floor, as `score_once` and `measure_floor` keep it."""
        subjects = [
            one
            for one in map(self._subject, artefacts)
            if not has_scores(_scored(one, teacher, answers), self.folder)
        ]
        with self._engine() as place:
            parts = self._split(answers, place, self.running.parts or PARTS)
            home = self._home(answers, place, len(parts))
            work = self._floor_work(answers, teacher)
            for number, part in enumerate(parts, start=1):
                said = take_teacher(teacher, answers, part)
                work |= {one.name(number): one.part(said, part.answers) for one in subjects}
            self._make(place, score_part, work, home, "scores")
        for path in (home / _FLOOR).iterdir() if _FLOOR in work else ():
            path.replace(self.folder / path.name)
        for one in subjects:
            files = [home / one.name(number + 1) / SCORES for number in range(len(parts))]
            joined = partial(_join_files, answers, teacher, parts, files)
            keep_scores(_scored(one, teacher, answers), self.folder, joined)
        _remove_parts(home, work)

    def make_shard(self, answers: AnswerSet, artefacts: Sequence[Artefact], shard: Shard) -> Path:
        """Make one part here: what the original says, and the scores of every artefact; returns
        the folder that it is in, with those of other shards. Raises CorpusError for answers that
        are too few for so many parts."""
        place = _Place(Here(self.device, self.backend.workers), self.backend.name)
        parts = self._split(answers, place, shard.parts)
        if len(parts) < shard.parts:
            raise CorpusError(
                f"the answers are too few for {shard.parts} parts: they make {len(parts)} groups, "
                "and each part needs one"
            )
        part, home = parts[shard.part - 1], self._home(answers, place, shard.parts)
        name = f"{_TAUGHT}{shard.part}"
        self._make(place, teach_part, {name: part.answers}, home, "original")
        said = _load_part(home / name / ORIGINAL, part)
        subjects = map(self._subject, artefacts)
        work = {one.name(shard.part): one.part(said, part.answers) for one in subjects}
        self._make(place, score_part, work, home, "scores")
        return home

    def _floor_work(self, answers: AnswerSet, teacher: Teacher) -> dict[str, Any]:
        some = take_some(teacher, answers)
        there = has_floor(*some, CheckpointWeights(self.original), self.folder)
        return {} if there else {_FLOOR: FloorPart(*some)}

    def _subject(self, artefact: Artefact) -> _Subject:
        identity = identify(artefact, self.backend.workers, self.progress)
        kept = find_kept_experts(artefact.source, CheckpointWeights(self.original))
        return _Subject(artefact.path, identity, kept)

    @contextmanager
    def _engine(self) -> Iterator[_Place]:
        if self.running.engine == "here":
            yield _Place(Here(self.device, self.backend.workers), self.backend.name)
            return
        engine = ENGINES[self.running.engine](self.device, self.running.workers, self._say)
        with engine as workers:
            yield _Place(workers, _name_device(workers))

    def _say(self, sentence: str) -> None:
        self.progress(sentence, 1, 1, "")

    def _split(self, answers: AnswerSet, place: _Place, parts: int) -> tuple[AnswersPart, ...]:
        hidden = self.original.family.number(self.original.config, "hidden")
        size = ON_CPU if place.device == "cpu" else ON_DEVICE
        return split_answers(answers, hidden, size, parts)

    def _home(self, answers: AnswerSet, place: _Place, parts: int) -> Path:
        """Where the parts are kept, by what decides them."""
        key = json.dumps([self._teacher_key(answers, place), parts])
        return parts_folder(self.folder, hashlib.sha256(key.encode()).hexdigest())

    def _teacher_key(self, answers: AnswerSet, place: _Place) -> str:
        source = CheckpointWeights(self.original)
        return teacher_key(source, self.original.identity(), answers, place.device)

    def _make(
        self, place: _Place, make: Any, work: Mapping[str, Any], home: Path, stage: str
    ) -> None:
        """Have the parts made that are not there."""
        left = {name: part for name, part in work.items() if not (home / name).exists()}
        count = Counter(self.progress, stage, len(work), "parts", before=len(work) - len(left))
        shared = SharedMeasuring(share_model(self.original), place.workers.device)
        place.workers.make(Work(open_measuring, make, shared, left), home, count)


def _scored(subject: _Subject, teacher: Teacher, answers: AnswerSet) -> Scored:
    return Scored(teacher, subject.identity, answers, subject.kept)


def _load_part(file: Path, part: AnswersPart) -> Teacher:
    """What the original says of a part. Raises InputError for what was made from other answers."""
    found = load_teacher(file)
    check_same_answers(found, part.answers, file)
    return found


def _join_files(
    answers: AnswerSet, teacher: Teacher, parts: Sequence[AnswersPart], files: Sequence[Path]
) -> Scores:
    return join_scores(answers, teacher, parts, [load_scores(file) for file in files])


def _remove_parts(home: Path, names: Iterable[str]) -> None:
    """Remove what was put together; what the original says, once no other artefact has parts of
    the same answers there, or is making some."""
    for name in names:
        shutil.rmtree(home / name, ignore_errors=True)
    left = [path.name for path in home.iterdir()] if home.is_dir() else []
    if all(name.startswith(_TAUGHT) and not name.endswith(SUFFIX) for name in left):
        shutil.rmtree(home, ignore_errors=True)


def _name_device(workers: Workers) -> str:
    """What the workers' backends are called."""
    if workers.device == "cpu":
        return "cpu"
    with TemporaryDirectory() as folder:
        ask = Work(_pass, _write_name, workers.device, {"device": None})
        workers.make(ask, Path(folder), lambda step: None)
        return (Path(folder) / "device" / _NAME).read_text("utf-8")


def _pass(device: str) -> str:
    return device


def _write_name(device: str, part: None, folder: Path, threads: int) -> None:
    name = choose_backend(device, workers=threads).name
    write_text(folder / _NAME, name)
