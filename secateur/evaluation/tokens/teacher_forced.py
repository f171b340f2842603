"""Running a model over answers: the logits of every scored token, through the streamed forward.

Original and artefact are run in exactly this way, with the same micro-batches and chunks of the
head, so that bit-identical weights give bit-identical logits. Peak memory: that of the streamed
forward, the experts that the scored tokens chose (forward.chosen_experts), and per worker two
chunks of logits (64 MiB each at most, while the model caps them) with what the caller makes of a
block of one (2 MiB, or a token).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.errors import FamilyError, NumericError
from secateur.evaluation.tokens.answers import AnswerSet
from secateur.forward.backends.base import Backend
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.backends.memory import fit_memory
from secateur.forward.batches import (
    BatchSize,
    Group,
    MicroBatch,
    arrange,
    count_tokens,
    group_micro_batches,
    make_micro_batches,
)
from secateur.forward.chosen_experts import ChosenExperts, ChosenTable, Wanted
from secateur.forward.expert_work import ExpertObserver
from secateur.forward.rounded_inputs import RoundInputs
from secateur.forward.stream import ForwardPass
from secateur.forward.weights import WeightSource
from secateur.system.progress import Counter, Progress, no_progress

ROWS = 256
"""Tokens of a chunk on a CPU at most: a matrix product is no quicker with more, and larger results
leave the cache."""
_BLOCK_BYTES = 2 << 20
"""Bytes of logits that stay in a CPU's cache while probabilities are made of them."""
_UNKNOWN: NDArray[np.integer[Any]] = np.empty((0, 0, 0), np.uint8)


class Chunk(NamedTuple):
    """Scored tokens whose logits are computed together (n of them)."""

    token: NDArray[np.intp]
    """[n]: number of the token among all scored tokens of the answers."""
    target: NDArray[np.int64]
    """[n]: its id."""
    position: Tensor
    """int64 [n]: where it is predicted, in the flattened micro-batch."""
    experts: NDArray[np.integer[Any]] = _UNKNOWN
    """[n, L, K]: the experts that the model chose there, in no order, in the L layers that have
    experts."""


def run_teacher_forced(
    source: WeightSource,
    answers: AnswerSet,
    work: Callable[[Chunk, Tensor], None],
    *,
    backend: Backend = CpuBackend(),  # noqa: B008 - frozen
    layers: int | None = None,
    rounding: RoundInputs | None = None,
    progress: Progress = no_progress,
) -> ChosenTable:
    """Call `work(chunk, logits)` for all scored tokens; logits are float32 [n, V], on the backend's
    device if that has float64. Returns the experts that were chosen where they are predicted.

    `work` may run in several threads, on chunks that do not overlap (on a CPU `split_chunk`'s);
    they do not depend on the number of workers. Two stages are reported, both in tokens: "layers"
    (all tokens), then "logits" (those that are scored). `layers` runs only the first so many, to
    try what the head takes; `rounding` is done to the inputs of all products
    (forward.rounded_inputs).
    Raises NumericError, naming the answer and the token, when a hidden state or a logit is NaN or
    infinite, and FamilyError when the vocabulary lacks a token.
    """
    vocab = source.family.number(source.config, "vocab")
    largest = max(max(entry.input_ids) for entry in answers.answers)
    if largest >= vocab:
        raise FamilyError(
            f"the answers hold token {largest}, but the model's vocabulary is 0 to {vocab - 1}: "
            "they were made for a model with another tokenizer"
        )
    if layers is None:
        layers = source.family.number(source.config, "layers")
    run = _Run(source, answers, work, layers, rounding, backend.batch_size, progress)
    return fit_memory(backend, run.on, lambda sentence: progress(sentence, 1, 1, ""))


@dataclass(frozen=True)
class _Run:
    """What is run, on whatever backend."""

    source: WeightSource
    answers: AnswerSet
    work: Callable[[Chunk, Tensor], None]
    layers: int
    rounding: RoundInputs | None
    size: BatchSize
    """that the answers' own groups were made for"""
    progress: Progress

    def on(self, backend: Backend) -> ChosenTable:
        """Run all layers, then the head."""
        groups = self._group(backend.batch_size)
        batches = [batch for group in groups for batch in group]
        with ForwardPass(
            self.source, batches, backend, groups=groups, rounding=self.rounding
        ) as forward:
            notes = self._note_experts(batches)
            tokens = count_tokens(batches)
            count = Counter(self.progress, "layers", tokens, "tokens", steps=self.layers * tokens)
            try:
                for layer in range(self.layers):
                    self._run_layer(forward, layer, notes, count)
                forward.finish()
            except NumericError as error:
                raise _name_answer(error, forward, self.answers) from None
            chosen = notes.table(self.answers.tokens)
            self._score(forward, chosen)
        return chosen

    def _group(self, size: BatchSize) -> Sequence[Group]:
        """The answers in groups of micro-batches: those that they come with, unless they are too
        large for the device."""
        if self.answers.groups is not None and size == self.size:
            return arrange(self.answers.rows, self.answers.groups)
        hidden = self.source.family.number(self.source.config, "hidden")
        return group_micro_batches(make_micro_batches(self.answers.rows, hidden, size), size)

    def _run_layer(
        self, forward: ForwardPass, layer: int, notes: ChosenExperts, count: Counter
    ) -> None:
        def observe(group: Group) -> ExpertObserver:
            return notes.observer(layer, group, [forward.mask(batch) for batch in group])

        with forward.load_layer(layer) as module:
            forward.run(module, layer, observe, lambda group: count(count_tokens(group)))

    def _note_experts(self, batches: Sequence[MicroBatch]) -> ChosenExperts:
        wanted = {}
        for batch in batches:
            (chunk,) = _chunks(batch, self.answers, self.answers.tokens)
            wanted[batch.index] = Wanted(chunk.token, chunk.position)
        return ChosenExperts(wanted, self.source.family.number(self.source.config, "experts"))

    def _score(self, forward: ForwardPass, chosen: ChosenTable) -> None:
        vocab = self.source.family.number(self.source.config, "vocab")
        size = max(1, forward.backend.logits_bytes // (4 * vocab))
        if not forward.backend.queued:
            size = min(size, ROWS)
        scored = Counter(self.progress, "logits", self.answers.tokens, "tokens")

        def score(batch: MicroBatch) -> None:
            for chunk in _chunks(batch, self.answers, size):
                logits = forward.logits(batch, chunk.position)
                logits = logits.cpu() if logits.device.type == "mps" else logits  # no float64 there
                known = chunk._replace(experts=chosen.experts[chunk.token])
                for part, some in split_chunk(known, logits):
                    check_finite(some, part, self.answers)
                    self.work(part, some)
                scored(len(chunk.token))

        with forward.load_head():
            for _ in forward.map(score):
                pass


def _chunks(batch: MicroBatch, answers: AnswerSet, size: int) -> Iterator[Chunk]:
    """The scored tokens of a micro-batch, at most `size` at a time."""
    length = batch.input_ids.shape[1]
    tokens, targets, positions = [], [], []
    for number, line in enumerate(batch.lines):
        answer = answers.answers[line.row]
        tokens.append(np.arange(answers.offsets[line.row], answers.offsets[line.row + 1]))
        scored = answer.positions
        targets.append(np.array(answer.input_ids, np.int64)[scored])
        # Token t is predicted at position t - 1.
        positions.append(number * length + scored - 1)
    token, target, position = map(np.concatenate, (tokens, targets, positions))
    for start in range(0, len(token), size):
        part = slice(start, start + size)
        yield Chunk(token[part], target[part], torch.from_numpy(position[part]))


def split_chunk(chunk: Chunk, logits: Tensor) -> Iterator[tuple[Chunk, Tensor]]:
    """A chunk in blocks that stay in the cache; whole where its logits are on a device."""
    size = len(logits)
    if logits.device.type == "cpu":
        size = max(1, _BLOCK_BYTES // (4 * logits.shape[-1]))
    for start in range(0, len(logits), size):
        part = slice(start, start + size)
        token, target, position, experts = chunk
        yield Chunk(token[part], target[part], position[part], experts[part]), logits[part]


def place(answers: AnswerSet, token: int) -> str:
    """Where a scored token is, for messages."""
    number = int(answers.answer_of_token[token])
    answer = answers.answers[number]
    position = answer.positions[token - int(answers.offsets[number])]
    return f"answer {answer.id!r}, token {position}"


def check_finite(logits: Tensor, chunk: Chunk, answers: AnswerSet) -> None:
    """Raise NumericError, naming the answer and the token, for a logit that is NaN or infinite."""
    # The largest and the least of a row are quicker than a look at each, and NaN is both.
    good = torch.isfinite(logits.amax(-1)) & torch.isfinite(logits.amin(-1))
    if not bool(good.all()):
        token = int(chunk.token[int((~good).nonzero()[0])])
        raise NumericError(
            f"the logits for {place(answers, token)} hold NaN or infinity: the output head or "
            "the final norm is damaged"
        )


def _name_answer(error: NumericError, forward: ForwardPass, answers: AnswerSet) -> NumericError:
    """The forward's error about a row, with the answer it is about."""
    for batch in forward.batches:
        bad = ~torch.isfinite(forward.hidden(batch).sum(-1)).cpu() & batch.mask
        if bool(bad.any()):
            number, token = (int(part) for part in bad.nonzero()[0])
            answer = answers.answers[batch.lines[number].row]
            return NumericError(f"answer {answer.id!r}, token {token}: {error}")
    return error
