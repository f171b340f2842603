"""Scoring: an artefact run over the original's answers; the arrays of all metrics per token."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.errors import InputError, NumericError
from secateur.evaluation.metrics.base import ScoredTokens
from secateur.evaluation.metrics.registry import token_arrays
from secateur.evaluation.tokens.answers import AnswerSet
from secateur.evaluation.tokens.teacher import Bins, Teacher, bins, check_same_answers
from secateur.evaluation.tokens.teacher_forced import Chunk, place, run_teacher_forced
from secateur.forward.backends.base import Backend
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.weights import WeightSource
from secateur.system.array_file import read_arrays, write_arrays
from secateur.system.cache import kept_file, touch
from secateur.system.locks import made_once
from secateur.system.progress import Progress, no_progress

_log = logging.getLogger(__name__)

FORMAT = "secateur scores 3"


@dataclass(frozen=True)
class Scores:
    """N scored tokens of one artefact, compared with the original's.

    `arrays` {name: [N]} are those of the metrics (metrics/base.TokenArray). `provenance` is
    JSON-able: {"artefact": identity, "teacher": hash}.
    """

    arrays: Mapping[str, NDArray[Any]] = field(repr=False)
    answers_sha256: str
    provenance: Mapping[str, Any]


def score(
    teacher: Teacher,
    source: WeightSource,
    identity: str,
    answers: AnswerSet,
    *,
    backend: Backend = CpuBackend(),  # noqa: B008 - frozen
    progress: Progress = no_progress,
) -> Scores:
    """Run an artefact over the answers and compare it with the original.

    `identity` names the artefact (a hash or a path) in what is saved. Peak memory: the streamed
    forward's, the teacher's, and the arrays (17 bytes per scored token for the shipped metrics).
    Raises InputError when the teacher is of other answers, NumericError when a probability is
    NaN, infinite, or so small that a metric is infinite, naming the answer and the token.
    """
    check_same_answers(teacher, answers)
    vocab = source.family.number(source.config, "vocab")
    if int(teacher.top_ids.max()) >= vocab:
        raise InputError(
            f"the original knows token {int(teacher.top_ids.max())}, but the artefact's vocabulary "
            f"is 0 to {vocab - 1}: it is not made from this original"
        )
    arrays = {array.name: np.empty(answers.tokens, array.dtype) for array in token_arrays()}

    def work(chunk: Chunk, logits: Tensor) -> None:
        tokens = _compare(teacher, chunk, logits)
        for array in token_arrays():
            values = array.compute(tokens)
            if not np.isfinite(values).all():
                token = int(chunk.token[int(np.argmin(np.isfinite(values)))])
                raise NumericError(f"{place(answers, token)}: {array.name} is not finite")
            arrays[array.name][chunk.token] = values

    run_teacher_forced(source, answers, work, backend=backend, progress=progress)
    provenance = {"artefact": identity, "teacher": teacher.sha256}
    return Scores(arrays, answers.sha256, provenance)


def score_once(
    teacher: Teacher,
    source: WeightSource,
    identity: str,
    answers: AnswerSet,
    folder: Path,
    *,
    backend: Backend = CpuBackend(),  # noqa: B008 - frozen
    progress: Progress = no_progress,
) -> Scores:
    """The scores kept in `folder`, or computed and put there.

    The file's name is the hash of the artefact's identity, the teacher (which stands for the
    original, the answers and our libraries) and the names of the arrays. Of two
    processes one waits for the other's.
    """
    names = [array.name for array in token_arrays()]
    decides = json.dumps([FORMAT, identity, teacher.sha256, answers.sha256, names])
    path = kept_file(folder, "scores", hashlib.sha256(decides.encode()).hexdigest())

    def load() -> Scores:
        found = load_scores(path)
        if found.provenance != {"artefact": identity, "teacher": teacher.sha256}:
            raise InputError(f"{path} holds the scores of something else: delete it")
        touch(path)
        _log.info("%s: scored earlier, used again", path)
        return found

    def make() -> Scores:
        found = score(teacher, source, identity, answers, backend=backend, progress=progress)
        save_scores(found, path)
        return found

    return made_once(path, load, make, lambda: progress("wait for another process", 0, 1, ""))


def save_scores(scores: Scores, path: Path) -> None:
    """Write the file: complete or absent. Raises WriteError."""
    head = {
        "format": FORMAT,
        "answers_sha256": scores.answers_sha256,
        "provenance": json.dumps(scores.provenance, sort_keys=True),
    }
    write_arrays(path, scores.arrays, head)


def load_scores(path: Path) -> Scores:
    """Read a file that `save_scores` wrote. Raises InputError when it is something else."""
    names = tuple(array.name for array in token_arrays())
    arrays, head = read_arrays(path, FORMAT, names)
    return Scores(arrays, head["answers_sha256"], head["provenance"])


def _compare(teacher: Teacher, chunk: Chunk, logits: Tensor) -> ScoredTokens:
    ids = torch.from_numpy(teacher.top_ids[chunk.token].astype(np.int64)).to(logits.device)
    target = torch.from_numpy(chunk.target).to(logits.device)
    found = Bins(*(part.cpu() for part in bins(logits, ids, target)))
    rest = teacher.rest[chunk.token, None]
    return ScoredTokens(
        original=np.concatenate([teacher.top[chunk.token], rest], -1),
        artefact=np.concatenate([found.top.numpy(), found.rest.numpy()[:, None]], -1),
        original_actual=teacher.actual[chunk.token],
        artefact_actual=found.actual.numpy(),
        original_best=teacher.best[chunk.token],
        artefact_best=logits.argmax(-1).cpu().numpy(),
    )
