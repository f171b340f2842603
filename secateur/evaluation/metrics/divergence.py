"""How far an artefact is from the original, token by token, on the original's own answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.errors import InputError, NumericError
from secateur.evaluation.tokens.answers import AnswerSet
from secateur.evaluation.tokens.replay import Chunk, place, replay
from secateur.evaluation.tokens.teacher import Teacher, bins, check_same_answers
from secateur.forward.weights import WeightSource
from secateur.system.array_file import read_arrays
from secateur.system.atomic import write_safetensors
from secateur.system.progress import Progress, no_progress

FORMAT = "secateur scores 1"


@dataclass(frozen=True)
class Scores:
    """N scored tokens of one artefact beside the original's. Natural logarithms."""

    kl: NDArray[np.float64] = field(repr=False)
    """[N]: KL(original || artefact) over the bins, in nats; never negative."""
    student: NDArray[np.float32] = field(repr=False)
    """[N]: the artefact's log-probability of the token that is there."""
    teacher: NDArray[np.float32] = field(repr=False)
    """[N]: the original's."""
    agrees: NDArray[np.bool_] = field(repr=False)
    """[N]: both find the same token most probable."""
    answers_sha256: str
    provenance: Mapping[str, Any]
    """JSON-able: {"artefact": identity, "teacher": hash}."""


def kl_of_bins(teacher: NDArray[np.float32], student: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL divergence in nats from log-probabilities over bins: [n, B], [n, B] -> [n].

    Sum of p (log p - log q) - p + q. As both sum to 1 that is the KL divergence, but every term
    is non-negative and 0 only where p = q, so that rounding can neither make it negative nor
    drown a small one. With d = log p - log q a term is p (d + expm1(-d)).
    """
    log_p, log_q = teacher.astype(np.float64), student.astype(np.float64)
    p, q = np.exp(log_p), np.exp(log_q)
    # A bin of no mass on the original's side (-inf) costs q; nobody's bin costs nothing.
    d = np.subtract(log_p, log_q, out=np.zeros_like(p), where=p > 0)
    near = np.abs(d) < 1
    terms = np.where(near, p * (d + np.expm1(-np.where(near, d, 0))), p * d - p + q)
    total: NDArray[np.float64] = np.where(p > 0, terms, q).sum(-1)
    return total


def score(
    teacher: Teacher,
    source: WeightSource,
    identity: str,
    answers: AnswerSet,
    *,
    workers: int = 1,
    progress: Progress = no_progress,
) -> Scores:
    """Run an artefact over the answers and compare it with the original.

    `identity` names the artefact (a hash or a path) in what is saved. Peak memory: the streamed
    forward's, the teacher's and 17 bytes per scored token. Raises InputError when the teacher is
    of other answers, NumericError when a probability is NaN, infinite, or so small that a
    divergence is infinite, naming the answer and the token.
    """
    check_same_answers(teacher, answers)
    vocab = source.family.number(source.config, "vocab")
    if int(teacher.top_ids.max()) >= vocab:
        raise InputError(
            f"the original knows token {int(teacher.top_ids.max())}, but the artefact's vocabulary "
            f"is 0 to {vocab - 1}: it is not made from this original"
        )
    kl_N = np.empty(answers.tokens, np.float64)
    student_N = np.empty(answers.tokens, np.float32)
    agrees_N = np.empty(answers.tokens, np.bool_)

    def work(chunk: Chunk, logits: Tensor) -> None:
        ids = torch.from_numpy(teacher.top_ids[chunk.token].astype(np.int64))
        found = bins(logits, ids, torch.from_numpy(chunk.target))
        rest = teacher.rest[chunk.token, None]
        kl = kl_of_bins(
            np.concatenate([teacher.top[chunk.token], rest], -1),
            np.concatenate([found.top.numpy(), found.rest.numpy()[:, None]], -1),
        )
        if not np.isfinite(kl).all():
            token = int(chunk.token[int(np.argmin(np.isfinite(kl)))])
            raise NumericError(f"{place(answers, token)}: the divergence is not finite")
        kl_N[chunk.token] = kl
        student_N[chunk.token] = found.actual.numpy()
        agrees_N[chunk.token] = logits.argmax(-1).numpy() == teacher.best[chunk.token]

    replay(source, answers, work, workers=workers, progress=progress)
    provenance = {"artefact": identity, "teacher": teacher.sha256}
    return Scores(kl_N, student_N, teacher.actual, agrees_N, answers.sha256, provenance)


def save_scores(scores: Scores, path: Path) -> None:
    """Write the file: complete or absent. Raises WriteError."""
    arrays = {name: getattr(scores, name) for name in _ARRAYS}
    head = {
        "format": FORMAT,
        "answers_sha256": scores.answers_sha256,
        "provenance": json.dumps(scores.provenance, sort_keys=True),
    }
    write_safetensors(path, arrays, head)


def load_scores(path: Path) -> Scores:
    """Read a file that `save_scores` wrote. Raises InputError when it is something else."""
    arrays, head = read_arrays(path, FORMAT, _ARRAYS)
    return Scores(**arrays, answers_sha256=head["answers_sha256"], provenance=head["provenance"])


_ARRAYS = ("kl", "student", "teacher", "agrees")
