"""A GGUF in the engine that will really run it: does llama.cpp say what our decoded weights say?

The engine continues prompts greedily and shows its most probable tokens at every step. The same
tokens are then replayed through the decoded weights, and the two are compared position by
position. They cannot agree to the last bit: llama.cpp rounds activations to 8 bits before it
multiplies quantized weights, and where two experts are nearly tied that picks another expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from secateur.errors import EngineError
from secateur.evaluation.measurement import Measurement
from secateur.evaluation.tokens.answers import Answer, answer_set
from secateur.evaluation.tokens.prompts import Prompt
from secateur.evaluation.tokens.replay import Chunk, replay
from secateur.forward.weights import WeightSource
from secateur.serving.llama_server import NAME, EngineToken, llama_server
from secateur.system.progress import Progress, no_progress


def engine_agreement(
    model: Path,
    source: WeightSource,
    prompts: Sequence[Prompt],
    *,
    count: int = 16,
    workers: int = 1,
    progress: Progress = no_progress,
) -> tuple[Measurement, ...]:
    """Compare llama.cpp on a GGUF with its decoded weights, on what llama.cpp generates.

    `engine_top1_agreement`: part of the tokens that are most probable to both;
    `engine_log_prob_difference`: mean absolute difference of the log-probabilities of the
    engine's ten most probable tokens, in nats. Raises EngineError when the engine fails.
    """
    longest = max(len(prompt.input_ids) for prompt in prompts)
    steps: list[EngineToken] = []
    answers: list[Answer] = []
    with llama_server(model, context=longest + count + 8, workers=workers) as server:
        for number, prompt in enumerate(prompts, start=1):
            found = server.complete(prompt.input_ids, count)
            progress("engine", number, len(prompts), "prompts")
            if not found:
                continue
            ids = prompt.input_ids + tuple(step.id for step in found)
            begin = len(prompt.input_ids)
            answers.append(Answer(prompt.id, "engine", "answers", ids, begin, "stop"))
            steps += found
    if not answers:
        raise EngineError(f"{NAME} with {model} ended every answer before its first token")
    made = answer_set(answers, {"engine": NAME})
    same = np.empty(made.tokens, np.bool_)
    gaps = np.empty(made.tokens, np.float64)

    def work(chunk: Chunk, logits: Tensor) -> None:
        ours = logits.double().log_softmax(-1).numpy()
        best = torch.argmax(logits, -1).numpy()
        for row, token in enumerate(chunk.token):
            step = steps[token]
            same[token] = best[row] == step.id
            gaps[token] = np.abs(ours[row, list(step.top_ids)] - np.array(step.top)).mean()

    replay(source, made, work, workers=workers, progress=progress)
    n = {"prompts": len(answers), "tokens": made.tokens}
    return (
        Measurement("engine_top1_agreement", float(same.mean()), "fraction of tokens", n),
        Measurement("engine_log_prob_difference", float(gaps.mean()), "nats", n),
    )
