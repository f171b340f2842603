"""The floor: how far the original's own weights diverge from themselves in another kernel.

Nobody runs a model in float32 as it is measured here. Kernels of its published type round what
they multiply to bfloat16, and that alone moves probabilities. What differs by less than that is
not told apart, however sure the difference is.

Measured once per original and set of answers, on a part of the answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from torch import Tensor

from secateur.evaluation.measurement import Measurement, find_measurement
from secateur.evaluation.parts import take_answers, take_teacher
from secateur.evaluation.scores import (
    Scored,
    Scores,
    has_scores,
    ideal_scores,
    keep_scores,
    score_run,
)
from secateur.evaluation.summary import summarise
from secateur.evaluation.tokens.answers import AnswerSet
from secateur.evaluation.tokens.teacher import Teacher
from secateur.evaluation.tokens.teacher_forced import Chunk, run_teacher_forced
from secateur.forward.backends.base import Backend
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.rounded_inputs import to_bfloat16
from secateur.forward.weights import WeightSource
from secateur.system.progress import Progress, no_progress

KERNEL = "inputs of all matrix products rounded to bfloat16"
TOKENS = 4096
"""Scored tokens that the floor is measured on: enough for a mean that is far below what is told
apart, and quick where a model has many answers."""


@dataclass(frozen=True)
class Floor:
    """What another kernel does to the original's numbers.

    `measurements` are the original's own in that kernel, `ideal` those that it has without it.
    """

    measurements: tuple[Measurement, ...]
    ideal: tuple[Measurement, ...]

    def of(self, metric: str) -> float:
        """How far the kernel alone moves the pooled number of a metric; 0 where it was not
        measured."""
        found, without = (
            find_measurement(entries, metric) for entries in (self.measurements, self.ideal)
        )
        return 0.0 if found is None or without is None else abs(found.value - without.value)


def measure_floor(
    teacher: Teacher,
    source: WeightSource,
    answers: AnswerSet,
    folder: Path,
    *,
    tokens: int = TOKENS,
    backend: Backend = CpuBackend(),  # noqa: B008 - frozen
    progress: Progress = no_progress,
) -> Floor:
    """Run the original `source` over at most `tokens` scored tokens (the last answer whole), every
    domain in turn, in the other kernel; kept in `folder` for the next time. Memory: as `score`."""
    part, some = take_some(teacher, answers, tokens)
    scored = _scored(part, some, source)

    def run(work: Callable[[Chunk, Tensor], None]) -> None:
        run_teacher_forced(
            source, some, work, backend=backend, rounding=to_bfloat16, progress=progress
        )

    def make() -> Scores:
        return score_run(part, some, run, scored.identity, kept=scored.kept)

    scores = keep_scores(scored, folder, make, progress)
    return Floor(summarise(scores, some), summarise(ideal_scores(part, some), some))


def has_floor(teacher: Teacher, answers: AnswerSet, source: WeightSource, folder: Path) -> bool:
    """Whether the floor of what `take_some` gave is kept in `folder`."""
    return has_scores(_scored(teacher, answers, source), folder)


def _scored(teacher: Teacher, answers: AnswerSet, source: WeightSource) -> Scored:
    everyone = tuple(range(source.family.number(source.config, "experts")))
    kept = {int(layer): everyone for layer in teacher.layers}
    return Scored(teacher, f"{teacher.provenance['original']}: {KERNEL}", answers, kept)


def take_some(
    teacher: Teacher, answers: AnswerSet, tokens: int = TOKENS
) -> tuple[Teacher, AnswerSet]:
    """Answers of every kind and domain in turn, of at most `tokens` scored tokens (the last answer
    whole), and what the teacher says of them. Of what was taken so, the same are taken again."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for number, answer in enumerate(answers.answers):
        kinds.setdefault((answer.kind, answer.domain), []).append(number)
    taken: list[int] = []
    left = tokens
    for number in (one for turn in zip_longest(*kinds.values()) for one in turn):
        if number is not None and left > 0:
            taken.append(number)
            left -= answers.answers[number].scored
    part = take_answers(answers, taken)
    return take_teacher(teacher, answers, part), part.answers
