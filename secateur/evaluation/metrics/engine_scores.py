"""The same measurement in the engine that users run: llama.cpp on the original's answers.

Decoded weights tell what a file's bits cost; llama.cpp adds what its own arithmetic costs (it
rounds activations to 8 bits). Here it is asked for the next token at every scored position, with
the answer so far in its cache, so one token is computed per position.

The engine shows its `top` most probable tokens. Bins are the tokens that both it and the teacher
show, and one for all others: coarser than the teacher's, hence again a bound from below.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secateur.errors import EngineError
from secateur.evaluation.metrics.divergence import Scores, kl_of_bins
from secateur.evaluation.tokens.answers import AnswerSet
from secateur.evaluation.tokens.teacher import Teacher, check_same_answers
from secateur.formats.ggml.engine import engine_version
from secateur.serving.llama_server import NAME, EngineToken, llama_server
from secateur.system.progress import Progress, no_progress

SHOWN = 512
"""Tokens that the engine shows per position, by default twice the teacher's."""

_SMALLEST = 1e-12
"""Mass of the rest at least: the engine's float32 probabilities sum to 1 only within 1e-7."""


def engine_scores(
    model: Path,
    identity: str,
    teacher: Teacher,
    answers: AnswerSet,
    *,
    shown: int = SHOWN,
    workers: int = 1,
    progress: Progress = no_progress,
) -> Scores:
    """Score a GGUF as llama.cpp runs it; what `score` does with its decoded weights.

    The log-probability of a token that is not among the `shown` ones is taken to be that of the
    last shown (an upper bound; rare on the original's own answers). Raises EngineError when the
    engine fails, InputError when the teacher is of other answers.
    """
    check_same_answers(teacher, answers)
    longest = max(len(answer.input_ids) for answer in answers.answers)
    kl_N = np.empty(answers.tokens, np.float64)
    student_N = np.empty(answers.tokens, np.float32)
    agrees_N = np.empty(answers.tokens, np.bool_)
    token = 0
    with llama_server(model, context=longest + 8, workers=workers) as server:
        for answer in answers.answers:
            for position in range(answer.begin, len(answer.input_ids)):
                prefix = answer.input_ids[:position]
                found = server.complete(prefix, 1, top=shown, cached=True)
                if len(found) != 1 or not found[0].top:
                    raise EngineError(
                        f"{NAME} shows no probabilities for answer {answer.id!r}, token {position}"
                    )
                kl_N[token] = _divergence(found[0], teacher, token)
                shares = dict(zip(found[0].top_ids, found[0].top, strict=True))
                student_N[token] = shares.get(answer.input_ids[position], found[0].top[-1])
                agrees_N[token] = found[0].id == teacher.best[token]
                token += 1
            progress("engine", token, answers.tokens, "tokens")
    provenance = {"artefact": identity, "teacher": teacher.sha256, "engine": engine_version()}
    return Scores(kl_N, student_N, teacher.actual, agrees_N, answers.sha256, provenance)


def _divergence(step: EngineToken, teacher: Teacher, token: int) -> float:
    """KL in nats over the tokens that both show, and the rest."""
    _, ours, theirs = np.intersect1d(
        teacher.top_ids[token], np.array(step.top_ids), assume_unique=True, return_indices=True
    )
    p = _with_rest(teacher.top[token, ours].astype(np.float64))
    q = _with_rest(np.array(step.top)[theirs])
    return float(kl_of_bins(p[None], q[None])[0])


def _with_rest(log_shares: NDArray[np.float64]) -> NDArray[np.float32]:
    """Log-probabilities [B] and, at the end, the log of what they leave."""
    rest = max(1.0 - float(np.exp(log_shares).sum()), _SMALLEST)
    return np.append(log_shares, np.log(rest)).astype(np.float32)
