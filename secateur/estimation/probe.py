"""A few seconds of the real work on this machine: the pass over a few tokens, the head, encoders.

What is timed is what will run: the calibration pass itself, stopped after a few layers, so that
whatever it does for a token is in its time. What Gram matrices add is the difference to a pass that
makes them, since scoring makes none. Layers of one kind (the same tensors in the same shapes) are
taken to last equally long, other kinds in proportion to their operations. The pass is run on two
numbers of tokens, because a group of tokens costs something however few it has: each expert is
widened once for the group.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import median
from typing import NamedTuple

import numpy as np

from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.rows import Corpus, Row, make_corpus
from secateur.estimation.work import Calibrating, LayerWork
from secateur.formats.ggml.codec import ENCODABLE, encode
from secateur.forward.batches import ON_CPU
from secateur.system.progress import Progress

BUDGET = 2.0
"""Seconds that a layer of the larger pass should take."""
_TOKENS, _SAMPLED = 256, 32
"""Of the smaller pass."""
_MOST_TOKENS, _LEAST_TOKENS = 3 * ON_CPU.group, ON_CPU.group // 2
"""Of the larger one: where a layer of few tokens takes long already, the difference between two
small passes says little of a whole group."""
_ENCODED = 1 << 19
"""Elements that every worker encodes: a block of the writer."""

_ENCODING = 0.2
"""Seconds that each type is encoded for, at least."""

RunPass = Callable[[Corpus, int, Progress], object]
"""Calibrates on a corpus with so many sampled tokens, reporting to a Progress."""


class Passes(NamedTuple):
    """The pass, and the same with Gram matrices, where they are wanted."""

    plain: RunPass
    with_gram: RunPass | None = None


class _EnoughError(Exception):
    """Raised in the pass when it has run long enough."""


@dataclass(frozen=True)
class PassTimes:
    """Seconds of a pass over some tokens: before the first layer, and of the layers that it came
    to, {layer: seconds}, running them and solving them."""

    tokens: int
    sampled: int
    start: float
    running: Mapping[int, float]
    solving: Mapping[int, float]


@dataclass(frozen=True)
class PassRates:
    """See Rates: of the layers' pass and of solving."""

    start: float
    layers: Mapping[int, float]
    rest: Mapping[int, float]
    solve: float
    solve_layer: float
    gram: float = 0.0


def probe_pass(
    checkpoint: Checkpoint,
    corpus: Corpus,
    wanted: Calibrating,
    layers: Sequence[LayerWork],
    passes: Passes,
) -> PassRates:
    """Time the pass on few tokens of the corpus. `wanted`: what will be run."""
    run, with_gram = passes
    few = _cut(corpus, _TOKENS)
    sampled = min(_SAMPLED, wanted.sampled)
    # The first pass meets weights that nobody has read, and compiles: it is not counted.
    _time_pass(checkpoint, few, sampled, run, BUDGET / 8)
    small = _time_pass(checkpoint, few, sampled, run, BUDGET / 2)
    more = max(2.0, BUDGET / max(small.running.values()))
    tokens = max(_LEAST_TOKENS, min(_MOST_TOKENS, int(more * few.tokens)))
    tokens = min(tokens, corpus.tokens)
    if sampled:
        more = max(2.0, BUDGET / max(small.solving.values()))
        sampled = int(min(more * sampled, wanted.sampled, tokens))
    part = _cut(corpus, tokens)
    large = _time_pass(checkpoint, part, sampled, run, 2 * BUDGET)
    found = _fit(small, large, layers)
    if with_gram is None:
        return found
    _time_pass(checkpoint, few, 0, with_gram, BUDGET / 8)  # compiles
    longer = _time_pass(checkpoint, part, 0, with_gram, 2 * BUDGET).running
    both = large.running.keys() & longer.keys()
    added = sum(longer[layer] - large.running[layer] for layer in both)
    each = max(0.0, added) / max(1, part.tokens) / len(both)
    return replace(found, gram=each * len(layers))


def encode_seconds(types: Mapping[str, int], workers: int) -> dict[str, float]:
    """{type: seconds per element} with all workers; `types` gives a row's width for each. Types
    that are not llama.cpp's are left out."""
    rates = {}
    with ThreadPoolExecutor(workers) as pool:
        for kind, width in types.items():
            if kind not in ENCODABLE:
                continue
            shape = (max(1, _ENCODED // width), width)
            rows = np.random.default_rng(0).standard_normal(shape, np.float32)
            weights = np.ones(width, np.float32)

            def work(
                _: int, kind: str = kind, rows: np.ndarray = rows, weights: np.ndarray = weights
            ) -> None:
                encode(rows, kind, weights)

            list(pool.map(work, range(workers)))  # compiles, where it has to be; memory is new
            start, done = time.perf_counter(), 0
            while (taken := time.perf_counter() - start) < _ENCODING:
                list(pool.map(work, range(2 * workers)))
                done += 2 * workers
            rates[kind] = taken / (done * rows.size)
    return rates


def _time_pass(
    checkpoint: Checkpoint, corpus: Corpus, sampled: int, run: RunPass, limit: float
) -> PassTimes:
    """Run a pass until `limit` seconds are over, but one layer at least."""
    marks: list[float] = []
    steps = _steps(checkpoint, corpus, sampled)
    first = checkpoint.moe_layers[0] if sampled else 0
    one_layer = sum(layer <= first for layer, _ in steps)
    begun = time.perf_counter()

    def mark(stage: str, done: int, total: int, unit: str) -> None:
        marks.append(time.perf_counter())
        if marks[-1] - begun > limit and len(marks) > one_layer:
            raise _EnoughError

    with suppress(_EnoughError):
        run(corpus, sampled, mark)
    running: dict[int, float] = {}
    solving: dict[int, float] = {}
    for (layer, what), before, after in zip(steps, marks, marks[1:], strict=False):
        table = solving if what == "solve" else running
        table[layer] = table.get(layer, 0.0) + after - before
    return PassTimes(corpus.tokens, sampled, marks[0] - begun, running, solving)


def _steps(checkpoint: Checkpoint, corpus: Corpus, sampled: int) -> list[tuple[int, str]]:
    """What each step that the pass reports is: a group that ran through a layer, or its solution.

    The first step of all is the beginning.
    """
    from secateur.forward.batches import group_micro_batches, make_micro_batches

    hidden = checkpoint.family.number(checkpoint.config, "hidden")
    groups = len(group_micro_batches(make_micro_batches(corpus.rows, hidden)))
    steps = []
    for layer in range(checkpoint.layers):
        steps += [(layer, "run")] * groups
        if sampled and layer in checkpoint.moe_layers:
            steps.append((layer, "solve"))
    return steps


def _fit(small: PassTimes, large: PassTimes, layers: Sequence[LayerWork]) -> PassRates:
    """Rates of all layers from two passes over some of them."""
    groups = large.tokens / ON_CPU.group
    full: dict[int, float] = {}
    rest: dict[int, float] = {}
    by_kind: dict[object, list[tuple[float, float]]] = {}
    for number in small.running.keys() & large.running.keys():
        before, after = small.running[number], large.running[number]
        each = max(0.0, after - before) / max(1, large.tokens - small.tokens)
        whole = after / groups if groups >= 1 else after + each * (ON_CPU.group - large.tokens)
        by_kind.setdefault(layers[number].kind, []).append((whole, after / large.tokens))
    known = {kind: tuple(map(median, zip(*pairs, strict=True))) for kind, pairs in by_kind.items()}
    first = next(layer for layer in layers if layer.kind in known)
    for number, layer in enumerate(layers):
        scale = 1.0 if layer.kind in known else layer.flops / first.flops
        whole, each = known.get(layer.kind, known[first.kind])
        full[number], rest[number] = whole * scale, each * scale
    solved = [(small.solving[n], large.solving[n]) for n in small.solving.keys() & large.solving]
    solve = solve_layer = 0.0
    if solved:
        before, after = (median(column) for column in zip(*solved, strict=True))
        solve = max(0.0, after - before) / max(1, large.sampled - small.sampled)
        solve_layer = max(0.0, after - solve * large.sampled)
    return PassRates(large.start, full, rest, solve, solve_layer)


def _cut(corpus: Corpus, tokens: int) -> Corpus:
    """A corpus of about so many tokens, of rows spread over the whole one."""
    rows: list[Row] = []
    held = 0
    step = max(1, len(corpus.rows) * corpus.tokens // max(1, tokens) // max(1, len(corpus.rows)))
    order = [start + i for start in range(step) for i in range(0, len(corpus.rows) - start, step)]
    for number in order:
        row = corpus.rows[number]
        size = min(len(row.input_ids), tokens - held)
        if size <= 0:
            break
        documents = row.documents[:size]
        if int(documents.max(initial=-1)) < 0:
            continue
        cut = row._replace(
            input_ids=row.input_ids[:size], documents=documents, positions=row.positions[:size],
            samples=row.samples[: int(documents.max()) + 1],
        )  # fmt: skip
        rows.append(cut)
        held += size
    return make_corpus(rows, corpus.samples, {})
