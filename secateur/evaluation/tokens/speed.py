"""How long the parts of measuring take that the calibration pass does not have: tried in seconds.

The head, with what is made of its logits, and one more token of every answer of a batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from statistics import mean
from typing import Any, cast

import numpy as np
from torch import nn
from transformers import GenerationConfig

from secateur.checkpoint.reader import Checkpoint
from secateur.evaluation.tokens.answers import Answer, AnswerSet
from secateur.evaluation.tokens.generate import Generation, answer_batch, mapping
from secateur.evaluation.tokens.prompts import Prompt
from secateur.evaluation.tokens.teacher import teach
from secateur.evaluation.tokens.teacher_forced import ROWS
from secateur.evaluation.whole_model import whole_model
from secateur.forward.backends.cpu import LOGITS_BYTES, CpuBackend
from secateur.forward.skeleton import get_decoder_layers
from secateur.forward.weights import CheckpointWeights

_PIECES = 3
"""Pieces of logits that every worker makes."""
_STEPS = 6
"""Tokens that are generated."""
_LOADED = 2 << 30
"""Bytes of the layers that are loaded to generate, at most, but one layer at least."""


def head_seconds(checkpoint: Checkpoint, workers: int) -> float:
    """Seconds per scored token: its logits, and what the original says of it. Every worker has an
    answer of three pieces of logits, of which the first is left out: it reads the head, compiles,
    and has memory that is new."""
    vocab = checkpoint.family.number(checkpoint.config, "vocab")
    tokens = max(1, min(ROWS, LOGITS_BYTES // (4 * vocab)))
    ids = np.random.default_rng(0).integers(0, vocab, (workers, _PIECES * tokens + 1))
    answers = [
        Answer(str(number), "all", "answers", tuple(row.tolist()), 1, "given")
        for number, row in enumerate(ids)
    ]
    # A worker takes a micro-batch; short answers would share one.
    groups = (tuple((number,) for number in range(workers)),)
    marks: list[tuple[int, float]] = []

    def mark(stage: str, done: int, total: int, unit: str) -> None:
        if stage == "logits" and done >= workers * tokens:
            marks.append((done, time.perf_counter()))

    teach(
        CheckpointWeights(checkpoint),
        "",
        AnswerSet(tuple(answers), {}, groups),
        backend=CpuBackend(workers),
        layers=0,
        progress=mark,
    )
    (before, begun), (done, ended) = marks[0], marks[-1]
    return (ended - begun) / (done - before)


def step_seconds(
    checkpoint: Checkpoint, prompt_tokens: int, workers: int, settings: Generation
) -> float:
    """Seconds until every answer of a batch has one more token, while every worker has a batch.

    Of a large model only the first layers are loaded, and the others are taken to be as they are.
    """
    whole, layers = sum(spec.nbytes for spec in checkpoint.specs.values()), checkpoint.layers
    loaded = max(1, min(layers, int(layers * _LOADED / max(1, whole))))
    vocab = checkpoint.family.number(checkpoint.config, "vocab")
    short = Generation(
        max_new_tokens=_STEPS, temperature=settings.temperature, batch_size=settings.batch_size
    )
    batches = [
        _prompts(worker, prompt_tokens, short.batch_size, vocab) for worker in range(workers)
    ]
    backend = CpuBackend(workers)
    with whole_model(checkpoint, backend, loaded) as model, mapping(backend) as each:
        # As where answers are generated: the model's own defaults would be merged into ours.
        model.generation_config = cast(Any, GenerationConfig)()
        watch = _Watch(get_decoder_layers(model))
        work = partial(_time_batch, model, watch, short)
        found = list(each(work, batches))
    steps, inside = (mean(column) for column in zip(*found, strict=True))
    return float(max(0.0, steps - inside) + inside * layers / loaded)


class _Watch:
    """Adds up the time that layers take in a thread; a thread runs one call at a time."""

    def __init__(self, layers: nn.ModuleList) -> None:
        self._local = threading.local()
        for layer in layers:
            layer.register_forward_pre_hook(self._begin)
            layer.register_forward_hook(self._end)

    def restart(self) -> None:
        self._local.total = 0.0

    @property
    def total(self) -> float:
        return float(self._local.total)

    def _begin(self, *_: Any) -> None:
        self._local.begun = time.perf_counter()

    def _end(self, *_: Any) -> None:
        self._local.total += time.perf_counter() - self._local.begun


def _time_batch(
    model: Any, watch: _Watch, settings: Generation, batch: Sequence[Prompt]
) -> tuple[float, float]:
    """Seconds of a step, and what of them was in the layers."""
    marks: list[tuple[float, float]] = []
    watch.restart()

    def mark(_: int) -> None:
        marks.append((time.perf_counter(), watch.total))

    answer_batch(model, batch, stop_ids=frozenset(), settings=settings, count=mark)
    # The first is after the prompts, the last but one after the last token.
    (begun, before), (ended, after) = marks[0], marks[_STEPS - 1]
    return (ended - begun) / (_STEPS - 1), (after - before) / (_STEPS - 1)


def _prompts(worker: int, tokens: int, count: int, vocab: int) -> list[Prompt]:
    ids = np.random.default_rng(worker).integers(0, vocab, (count, max(1, tokens)))
    return [
        Prompt(f"{worker}-{number}", "all", "answers", tuple(row.tolist()))
        for number, row in enumerate(ids)
    ]
