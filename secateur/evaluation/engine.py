"""An artefact in the engine that will really run it: does it say what our decoded weights say?

The engine reads the same tokens, and its full logits are compared twice: with the original's, as
ours are, and with ours. They cannot agree to the last bit. llama.cpp rounds activations to the
precision of the weights that they meet, 8 bits for quantized ones, before it multiplies; and where
two experts are nearly tied, that picks another one, which moves a token much further
(benchmarks/engine_agreement.py measures both).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from secateur.evaluation.compare import paired_difference
from secateur.evaluation.engine_metrics import DIFFERENCE, ENGINE_METRICS, KIND
from secateur.evaluation.kept_experts import Kept
from secateur.evaluation.measurement import Measurement, main_kind
from secateur.evaluation.metrics.registry import metric_named
from secateur.evaluation.scores import Scores, TokenScorer
from secateur.evaluation.summary import summarise, token_groups
from secateur.evaluation.tokens.answers import AnswerSet
from secateur.evaluation.tokens.teacher import Teacher
from secateur.evaluation.tokens.teacher_forced import Chunk, check_finite, split_chunk
from secateur.serving.teacher_forced_logits import Engine
from secateur.system.progress import Counter, Progress, no_progress


@dataclass(frozen=True)
class InOurPath:
    """What our decoded weights say of the tokens: probabilities, and scores against the original.

    `kept` are the original's numbers of the experts, as `scores.score` takes them.
    """

    probabilities: Teacher
    scores: Scores
    kept: Kept | None


def measure_engine(
    engine: Engine,
    original: Teacher,
    ours: InOurPath,
    answers: AnswerSet,
    *,
    progress: Progress = no_progress,
) -> tuple[Measurement, ...]:
    """Run the answers in an engine, and compare it with the original and with our path.

    Measurements of kind `engine`: all metrics against the original under their own names, those of
    ENGINE_METRICS against ours, over all domains and in each. Raises EngineError when the engine
    ends, NumericError for logits that are not finite. Memory: 64 MiB of logits.
    """
    against, between = score_engine(engine, original, ours, answers, progress=progress)
    measured = summarise(against, answers)
    kind = main_kind(measured)
    apart = {metric.name: metric for metric in ENGINE_METRICS}
    beside = [
        replace(entry, name=f"engine_{entry.name}")
        for entry in summarise(between, answers)
        if f"engine_{entry.name}" in apart
    ]
    metric = metric_named("kl_mean")
    differences = [
        replace(paired_difference(metric, group, (against, ours.scores)), name=DIFFERENCE)
        for group in token_groups(answers)
    ]
    return tuple(
        replace(entry, kind=KIND)
        for entry in (*measured, *differences, *beside)
        if entry.kind == kind
    )


def score_engine(
    engine: Engine,
    original: Teacher,
    ours: InOurPath,
    answers: AnswerSet,
    *,
    progress: Progress = no_progress,
) -> tuple[Scores, Scores]:
    """The tokens in an engine: (scores against the original, against our path), as `measure_engine`
    takes them."""
    name = engine.host.name
    shows = engine.experts[0] > 0
    against = TokenScorer(original, answers, name, ours.kept if shows else None)
    everyone = _own_numbers(ours) if shows else None
    between = TokenScorer(ours.probabilities, answers, name, everyone)
    _run(engine, answers, (against, between), progress)
    return against.scores(), between.scores()


def _own_numbers(ours: InOurPath) -> Kept:
    layers, count = ours.probabilities.layers, 1 + int(ours.probabilities.experts.max(initial=0))
    most = max([count, *(len(experts) for experts in (ours.kept or {}).values())])
    return {int(layer): tuple(range(most)) for layer in layers}


def _run(
    engine: Engine, answers: AnswerSet, scorers: Sequence[TokenScorer], progress: Progress
) -> None:
    count = Counter(progress, engine.host.name, answers.tokens, "tokens")
    for number, answer in enumerate(answers.answers):
        positions = answer.positions
        first = int(answers.offsets[number])
        for rows in engine.run(answer.input_ids, (positions - 1).tolist()):
            place = slice(rows.first, rows.first + len(rows.logits))
            chunk = Chunk(
                np.arange(first, first + len(positions))[place],
                np.array(answer.input_ids, np.int64)[positions[place]],
                torch.from_numpy(positions[place] - 1),
                rows.experts,
            )
            for part, logits in split_chunk(chunk, torch.from_numpy(rows.logits.copy())):
                check_finite(logits, part, answers)
                for scorer in scorers:
                    scorer.add(part, logits)
            count(len(chunk.token))
