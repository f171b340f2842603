"""A GGUF in the engine that will really run it: does llama.cpp say what our decoded weights say?

The engine continues prompts greedily and shows its most probable tokens at every step. The same
tokens are then run through the decoded weights, and the two are compared position by position.
They cannot agree to the last bit: llama.cpp rounds activations to 8 bits before it multiplies
quantized weights, and where two experts are nearly tied that picks another expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from secateur.errors import EngineError
from secateur.evaluation.engine_metrics import ENGINE_METRICS, KIND
from secateur.evaluation.measurement import Measurement
from secateur.evaluation.scores import Scores
from secateur.evaluation.summary import summarise
from secateur.evaluation.tokens.answers import Answer, AnswerSet, Kind, answer_set
from secateur.evaluation.tokens.prompts import Prompt
from secateur.evaluation.tokens.teacher_forced import Chunk, run_teacher_forced
from secateur.forward.backends.base import Backend
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.weights import WeightSource
from secateur.serving.llama_server import NAME, EngineToken, llama_server
from secateur.system.progress import Progress, no_progress

PROMPTS_PER_DOMAIN = 4
TOKENS = 16
"""Tokens that the engine generates after each prompt."""

_SPARE = 8
"""Tokens of context beyond prompt and answer; llama.cpp needs at least one."""


def engine_prompts(answers: AnswerSet) -> list[Prompt]:
    """What the engine is asked: the prompts of the first answers of each domain, or where there are
    none the beginnings of turns, or the first halves of documents."""
    kinds = {answer.kind for answer in answers.answers}
    kind = next(kind for kind in get_args(Kind) if kind in kinds)
    taken: dict[str, int] = {}
    found = []
    for answer in answers.answers:
        if answer.kind == kind and taken.get(answer.domain, 0) < PROMPTS_PER_DOMAIN:
            taken[answer.domain] = taken.get(answer.domain, 0) + 1
            end = len(answer.input_ids) // 2 if kind == "documents" else answer.begin
            ids = answer.input_ids[:end]
            found.append(Prompt(answer.id, answer.domain, "answers", ids))
    return found


def measure_engine(
    model: Path,
    source: WeightSource,
    prompts: Sequence[Prompt],
    *,
    count: int = TOKENS,
    backend: Backend = CpuBackend(),  # noqa: B008 - frozen
    progress: Progress = no_progress,
) -> tuple[Measurement, ...]:
    """Compare llama.cpp on a GGUF with its decoded weights, on what llama.cpp generates.

    `count` tokens at most follow each prompt. Memory: the whole model in llama.cpp's process,
    then the streamed forward's. Raises EngineError when the engine fails or there is no prompt.
    """
    longest = max((len(prompt.input_ids) for prompt in prompts), default=0)
    steps: list[EngineToken] = []
    made: list[Answer] = []
    progress("llama.cpp", 0, len(prompts), "prompts")
    with llama_server(model, context=longest + count + _SPARE, workers=backend.workers) as server:
        for number, prompt in enumerate(prompts, start=1):
            found = server.complete(prompt.input_ids, count)
            progress("llama.cpp", number, len(prompts), "prompts")
            if found:
                ids = prompt.input_ids + tuple(step.id for step in found)
                begin = len(prompt.input_ids)
                made.append(Answer(prompt.id, prompt.domain, "answers", ids, begin, "stop"))
                steps += found
    if not made:
        raise EngineError(f"{NAME} with {model} generated no token after any of the prompts")
    generated = answer_set(made, {"engine": NAME})
    scores = _score(source, generated, steps, backend, progress)
    return tuple(
        replace(found, kind=KIND) for found in summarise(scores, generated, metrics=ENGINE_METRICS)
    )


def _score(
    source: WeightSource,
    generated: AnswerSet,
    steps: Sequence[EngineToken],
    backend: Backend,
    progress: Progress,
) -> Scores:
    """Per generated token: whether the decoded weights choose it too, and how far their
    log-probabilities of the engine's top tokens are from the engine's (mean, in nats)."""
    agrees = np.empty(generated.tokens, np.bool_)
    difference = np.empty(generated.tokens, np.float64)

    def work(chunk: Chunk, logits: Tensor) -> None:
        ours = logits.double().log_softmax(-1).cpu().numpy()
        best = torch.argmax(logits, -1).cpu().numpy()
        for row, token in enumerate(chunk.token):
            step = steps[token]
            agrees[token] = best[row] == step.id
            difference[token] = np.abs(ours[row, list(step.top_ids)] - np.array(step.top)).mean()

    run_teacher_forced(source, generated, work, backend=backend, progress=progress)
    arrays = {"agrees": agrees, "difference": difference}
    return Scores(arrays, generated.sha256, {"artefact": NAME, "teacher": ""})
