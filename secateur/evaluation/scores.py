"""Scoring: an artefact run over the original's answers; the arrays of all metrics per token."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.errors import InputError, NumericError
from secateur.evaluation.kept_experts import Kept
from secateur.evaluation.metrics.base import Routing, ScoredTokens, TokenArray
from secateur.evaluation.metrics.registry import arrays_sha256, token_arrays
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

FORMAT = "secateur scores 5"

TOP = 5
"""How many of the most probable tokens are compared as a set."""


@dataclass(frozen=True)
class Scores:
    """N scored tokens of one artefact, compared with the original's.

    `arrays` {name: [N], or [N, L] by layer} are those of the metrics (metrics/base.TokenArray),
    without those of the routing where it is not known. `provenance` is JSON-able:
    {"artefact": identity, "teacher": hash, "layers": those that have experts}.
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
    kept: Kept | None = None,
    backend: Backend = CpuBackend(),  # noqa: B008 - frozen
    progress: Progress = no_progress,
) -> Scores:
    """Run an artefact over the answers and compare it with the original.

    `identity` names the artefact (a hash or a path) in what is saved; `kept` are the original's
    numbers of its experts, None where nobody knows (routers are not compared then). Peak memory:
    the streamed forward's, the teacher's, and the arrays (37 bytes per scored token for the shipped
    metrics, and 4 for each layer that has experts).
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

    def run(work: Callable[[Chunk, Tensor], None]) -> None:
        run_teacher_forced(source, answers, work, backend=backend, progress=progress)

    return score_run(teacher, answers, run, identity, kept=kept)


def score_run(
    teacher: Teacher,
    answers: AnswerSet,
    run: Callable[[Callable[[Chunk, Tensor], None]], None],
    identity: str,
    *,
    kept: Kept | None = None,
) -> Scores:
    """The scores of whatever `run` runs: it calls what it is given with all scored tokens and their
    logits, as `run_teacher_forced` does. Otherwise as `score`."""
    scorer = TokenScorer(teacher, answers, identity, kept)
    run(scorer.add)
    return scorer.scores()


class TokenScorer:
    """Compares tokens with the original's, chunk by chunk, in any order and from any thread."""

    def __init__(
        self, teacher: Teacher, answers: AnswerSet, identity: str, kept: Kept | None = None
    ) -> None:
        """As `score` takes them."""
        self._teacher, self._answers = teacher, answers
        self._provenance = _provenance(identity, teacher)
        self._wanted = _arrays(kept)
        shapes = {True: (answers.tokens, len(teacher.layers)), False: (answers.tokens,)}
        self._arrays = {
            array.name: np.empty(shapes[array.by_layer], array.dtype) for array in self._wanted
        }
        self._numbers = None if kept is None else _number_experts(teacher, kept)

    def add(self, chunk: Chunk, logits: Tensor) -> None:
        """Compare the tokens of a chunk. Raises NumericError."""
        tokens = _compare(self._teacher, chunk, logits, self._numbers)
        for array in self._wanted:
            values = array.compute(tokens)
            finite = np.isfinite(values).reshape(len(values), -1).all(-1)
            if not finite.all():
                token = int(chunk.token[int(np.argmin(finite))])
                raise NumericError(f"{place(self._answers, token)}: {array.name} is not finite")
            self._arrays[array.name][chunk.token] = values

    def scores(self) -> Scores:
        """Of all tokens, once each was added."""
        return Scores(self._arrays, self._answers.sha256, self._provenance)


def score_once(
    teacher: Teacher,
    source: WeightSource,
    identity: str,
    answers: AnswerSet,
    folder: Path,
    *,
    kept: Kept | None = None,
    backend: Backend = CpuBackend(),  # noqa: B008 - frozen
    progress: Progress = no_progress,
) -> Scores:
    """The scores kept in `folder`, or computed and put there."""

    def make() -> Scores:
        return score(
            teacher, source, identity, answers, kept=kept, backend=backend, progress=progress
        )

    scored = Scored(teacher, identity, answers, kept)
    return keep_scores(scored, folder, make, progress)


def has_scores(scored: Scored, folder: Path) -> bool:
    """Whether they are kept in `folder`."""
    return _file_of(scored, folder).exists()


class Scored(NamedTuple):
    """What decides scores."""

    teacher: Teacher
    """Stands for the original, the answers and our libraries."""
    identity: str
    """Of the artefact and of how it is run."""
    answers: AnswerSet
    kept: Kept | None


def keep_scores(
    scored: Scored, folder: Path, make: Callable[[], Scores], progress: Progress = no_progress
) -> Scores:
    """The scores kept in `folder`, or what `make` makes, put there.

    The file's name is the hash of what decides them, the names of the arrays and the code that
    computes them. Of two processes one waits for the other's.
    """
    path = _file_of(scored, folder)

    def load() -> Scores:
        found = load_scores(path)
        if found.provenance != _provenance(scored.identity, scored.teacher):
            raise InputError(f"{path} holds the scores of something else: delete it")
        touch(path)
        _log.info("%s: scored earlier, used again", path)
        return found

    def make_and_save() -> Scores:
        found = make()
        save_scores(found, path)
        return found

    waiting = partial(progress, "wait for another process", 0, 1, "")
    return made_once(path, load, make_and_save, waiting)


def ideal_scores(teacher: Teacher, answers: AnswerSet) -> Scores:
    """The scores of an artefact that says exactly what the original says."""
    best = teacher.best
    bins = np.concatenate([teacher.top, teacher.rest[:, None]], -1)
    routing = Routing(teacher.experts, teacher.experts, np.ones(teacher.experts.shape, np.bool_))
    tokens = ScoredTokens(
        original=bins,
        artefact=bins,
        original_actual=teacher.actual,
        artefact_actual=teacher.actual,
        original_best=best,
        artefact_best=best,
        top_kept=np.ones((len(best), min(TOP, teacher.top.shape[-1])), np.bool_),
        routing=routing,
    )
    arrays = {array.name: array.compute(tokens).astype(array.dtype) for array in token_arrays()}
    return Scores(arrays, answers.sha256, _provenance("the original itself", teacher))


def _file_of(scored: Scored, folder: Path) -> Path:
    names = [array.name for array in _arrays(scored.kept)]
    hashes = scored.identity, scored.teacher.sha256, scored.answers.sha256, arrays_sha256()
    decides = json.dumps([FORMAT, *hashes, names])
    return kept_file(folder, "scores", hashlib.sha256(decides.encode()).hexdigest())


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
    every = tuple(array.name for array in token_arrays())
    unrouted = tuple(array.name for array in _arrays(None))
    arrays, head = read_arrays(path, FORMAT, every, unrouted)
    return Scores(arrays, head["answers_sha256"], head["provenance"])


def _arrays(kept: Kept | None) -> tuple[TokenArray, ...]:
    """The arrays that can be computed."""
    return tuple(array for array in token_arrays() if kept is not None or not array.routed)


def _provenance(identity: str, teacher: Teacher) -> dict[str, Any]:
    return {
        "artefact": identity,
        "teacher": teacher.sha256,
        "layers": [int(layer) for layer in teacher.layers],
    }


class _Numbers(NamedTuple):
    """How the experts of an artefact are numbered."""

    original: NDArray[np.intp]
    """[L, E']: the original's number of each expert of the artefact."""
    is_there: NDArray[np.bool_]
    """[L, E]: which of the original's experts the artefact has."""


def _number_experts(teacher: Teacher, kept: Kept) -> _Numbers:
    original = np.array([kept[int(layer)] for layer in teacher.layers], np.intp)
    count = 1 + max(int(teacher.experts.max(initial=0)), int(original.max(initial=0)))
    is_there = np.zeros((len(original), count), np.bool_)
    np.put_along_axis(is_there, original, True, axis=-1)
    return _Numbers(original, is_there)


def _route(teacher: Teacher, chunk: Chunk, numbers: _Numbers) -> Routing:
    layer = np.arange(len(teacher.layers))[:, None]
    original = teacher.experts[chunk.token]
    return Routing(
        original, numbers.original[layer, chunk.experts], numbers.is_there[layer, original]
    )


def _compare(
    teacher: Teacher, chunk: Chunk, logits: Tensor, numbers: _Numbers | None
) -> ScoredTokens:
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
        top_kept=_keeps_top(logits, ids[:, :TOP]),
        routing=None if numbers is None else _route(teacher, chunk, numbers),
    )


def _keeps_top(logits: Tensor, ids: Tensor) -> NDArray[np.bool_]:
    """Which of the original's most probable `ids` [n, m] are among the m most probable of logits
    [n, V]; of several that are equally probable all are."""
    least = torch.topk(logits, ids.shape[-1], dim=-1, sorted=False).values.amin(-1, keepdim=True)
    found: NDArray[np.bool_] = (logits.gather(-1, ids) >= least).cpu().numpy()
    return found
