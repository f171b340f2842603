"""The calibration pass: a checkpoint and a corpus in, statistics out.

Peak memory: that of forward.stream, the sample of one layer and what solving it takes
(block_error), and the imatrix sums (16 bytes per input channel of every matrix).

With a folder to keep it in (`Sampling.resume`) a pass goes on after the layers of an earlier one.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from secateur.calibration.cost import cost_of, limit_sample
from secateur.calibration.device_gram_sums import DeviceGramSums
from secateur.calibration.device_sums import DeviceSums
from secateur.calibration.documents import Documents, list_documents
from secateur.calibration.gram_sums import GramSums
from secateur.calibration.layer_sums import LayerSums, list_kinds
from secateur.calibration.linear_names import count_matrices, name_experts
from secateur.calibration.model_hooks import hook_layer
from secateur.calibration.observers.base import Observer
from secateur.calibration.pass_folder import PassFolder
from secateur.calibration.shards import WHOLE, Shard, take_groups
from secateur.calibration.solve import LoadedLayer, solve_loaded
from secateur.calibration.token_sample import (
    Drawn,
    Sampling,
    Seen,
    TokenDraw,
    choose_tokens,
    draw,
    join_sample,
    join_seen,
)
from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.rows import Corpus
from secateur.errors import CorpusError, FamilyError
from secateur.forward.backends.base import Backend
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.batches import (
    BatchSize,
    Group,
    MicroBatch,
    count_tokens,
    group_micro_batches,
    make_micro_batches,
)
from secateur.forward.skeleton import find_path, get_decoder_layers
from secateur.forward.stream import ForwardPass
from secateur.forward.weights import CheckpointWeights
from secateur.statistics.added_grams import LayerGrams
from secateur.statistics.gram import GramKind
from secateur.statistics.gram_file import header_room, write_grams
from secateur.statistics.sample_file import (
    LayerTokens,
    SampleDescription,
    origin_of,
    write_sample,
)
from secateur.statistics.statistics import Statistics
from secateur.statistics.sums import Array
from secateur.system.progress import Counter, Progress, no_progress
from secateur.system.resources import cores

_KeepGrams = Callable[[Callable[[], LayerGrams]], Callable[[], None]]
"""Begins to write a layer's Gram matrices, given what fetches them; what it returns waits for it"""


@dataclass(frozen=True)
class _Task:
    """What every layer of a pass shares."""

    checkpoint: Checkpoint
    documents: Documents
    observers: Sequence[Observer]
    drawn: Mapping[int, Drawn]
    tokens: TokenDraw
    sizes: tuple[int, int, int]
    """H, E, K"""
    solve: bool
    aside: ThreadPoolExecutor
    """where searches run that need no weights"""
    keep: Callable[[LayerTokens], None] | None
    count: Callable[[int], None]
    """called with the tokens of a group that went through a layer, and `solving` after solving"""
    solving: int
    """as many tokens cost as much as solving a layer"""
    gram: GramKind | None
    gram_tokens: Mapping[int, Tensor] | None
    """{micro-batch: bool [tokens]}: those that count for Gram matrices; None: all"""
    grams: _KeepGrams | None
    resume: PassFolder | None


def calibrate(
    checkpoint: Checkpoint,
    corpus: Corpus,
    *,
    sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    observers: Sequence[Observer] = (),
    shard: Shard = WHOLE,
    backend: Backend | None = None,
    skip_bad: bool = False,
    progress: Progress = no_progress,
) -> Statistics:
    """Run the corpus through the checkpoint once and sum what its experts did.

    `sampling` says how many tokens are sampled for the criterion `rerouted` (fewer, where a
    family's router needs more memory per token than there is for them), where the sample is
    kept, and whether Gram matrices are made. `observers` add sums of their own to the built-in
    ones (statistics.sums). Of a `shard` only its part of the corpus is run, and nothing is solved:
    that takes the samples of all parts. The result depends on the kind of the `backend` (default:
    all cores of the CPU), not on its workers. A token that becomes NaN or infinite raises
    NumericError, or is left out and counted when `skip_bad`.
    Raises CorpusError when the corpus has no tokens, or fewer groups of documents than parts.
    """
    backend = backend or CpuBackend(cores())
    hidden = checkpoint.family.number(checkpoint.config, "hidden")
    groups, others = _take_part(corpus, hidden, backend.batch_size, shard)
    batches = [batch for group in groups for batch in group]
    documents = list_documents(corpus, batches)
    wanted = limit_sample(checkpoint, sampling.tokens)
    tokens = draw([*batches, *others], corpus, wanted, sampling.seed).of_first(len(batches))
    chosen = None
    if sampling.gram is not None:
        chosen = choose_tokens(batches, corpus, sampling.gram_tokens, sampling.seed)
    begun = _describe_run(checkpoint, documents, observers, shard, backend.name)
    sizes = hidden, checkpoint.experts, checkpoint.top_k
    with ExitStack() as stack:
        keep = stack.enter_context(
            _keep_sample(checkpoint, sampling, tokens, begun, skip_bad=skip_bad)
        )
        solve = shard.parts == 1 and wanted > 0
        # A search takes two threads, one for each objective.
        aside = stack.enter_context(ThreadPoolExecutor(max(1, backend.workers // 2)))
        count, solving = _count_steps(
            checkpoint, documents, wanted if solve else 0, progress, _done_layers(sampling)
        )
        forward = stack.enter_context(
            ForwardPass(
                CheckpointWeights(checkpoint), batches, backend, skip_bad=skip_bad, groups=groups
            )
        )
        grams = stack.enter_context(_keep_grams(forward, checkpoint.experts, sampling, begun))
        task = _Task(
            checkpoint, documents, observers, tokens.by_batch(), tokens, sizes, solve, aside, keep,
            count, solving, sampling.gram, chosen, grams, sampling.resume,
        )  # fmt: skip
        arrays = _run_layers(forward, task)
        skipped = forward.skipped
    return replace(begun, skipped=skipped, arrays=dict(sorted(arrays.items())))


def _take_part(
    corpus: Corpus, hidden: int, size: BatchSize, shard: Shard
) -> tuple[tuple[Group, ...], list[MicroBatch]]:
    """(the groups of a shard, the micro-batches of all others, numbered after them)"""
    whole = make_micro_batches(corpus.rows, hidden, replace(size, fits=sys.maxsize))
    if not whole:
        raise CorpusError("the corpus has no usable rows: nothing to calibrate on")
    groups, others = take_groups(group_micro_batches(whole, size), shard, size.fits)
    return groups, [batch for group in others for batch in group]


def _run_layers(forward: ForwardPass, task: _Task) -> dict[str, Array]:
    """All layers' parts of the statistics. Those of a layer are fetched when others were begun, so
    that a device does not stand still while the host searches."""
    arrays: dict[str, Array] = {}
    first, layers, resume = 0, task.checkpoint.layers, task.resume
    if resume is not None:
        resume.restore(forward)
        first, arrays = resume.done.layers, dict(resume.done.arrays)
    # On a CPU the cores are for the next layer only when this one is solved.
    ahead = forward.backend.workers if forward.backend.queued else 0
    unfinished: deque[Callable[[], dict[str, Array]]] = deque()

    def finish(left: int) -> None:
        while len(unfinished) > left:
            arrays.update(unfinished.popleft()())

    for layer in range(first, layers):
        task.checkpoint.check_unchanged()
        unfinished.append(_calibrate_layer(forward, layer, task))
        finish(ahead)
        if resume is not None and layer + 1 < layers and resume.is_due(forward):
            finish(0)
            task.checkpoint.check_unchanged()
            resume.save(forward, layer + 1, arrays)
    finish(0)
    task.checkpoint.check_unchanged()
    return arrays


@contextmanager
def _keep_sample(
    checkpoint: Checkpoint,
    sampling: Sampling,
    tokens: TokenDraw,
    begun: Statistics,
    *,
    skip_bad: bool,
) -> Iterator[Callable[[LayerTokens], None] | None]:
    """What takes the layers' samples for the sample's file; None where none is asked for."""
    wanted = limit_sample(checkpoint, sampling.tokens)
    if sampling.keep is None or not wanted:
        yield None
        return
    hidden = checkpoint.family.number(checkpoint.config, "hidden")
    described = SampleDescription(
        wanted, sampling.seed, begun.categories, tuple(checkpoint.moe_layers),
        (hidden, checkpoint.experts, checkpoint.top_k), skip_bad, origin_of(begun),
    )  # fmt: skip
    done = _done_layers(sampling)
    written = None if done is None else sum(layer < done for layer in checkpoint.moe_layers)
    with write_sample(sampling.keep, described, tokens.keys, written) as keep:
        yield keep


@contextmanager
def _keep_grams(
    forward: ForwardPass, experts: int, sampling: Sampling, begun: Statistics
) -> Iterator[_KeepGrams | None]:
    """What takes the layers' Gram matrices for their file; None where none are asked for. A layer's
    are written while the next one is run, and no third layer's are fetched before."""
    if sampling.gram is None or sampling.gram_file is None:
        yield None
        return
    kind, origin, done = sampling.gram, origin_of(begun), _done_layers(sampling)
    linears = count_matrices(forward.model, forward.family, forward.config, experts, kind)
    room = header_room(kind, linears)
    with (
        write_grams(sampling.gram_file, kind, origin, room, done) as add,
        ThreadPoolExecutor(1) as writer,
    ):
        last: Callable[[], None] | None = None

        def keep(fetched: Callable[[], LayerGrams]) -> Callable[[], None]:
            nonlocal last
            if last is not None:
                last()
            last = writer.submit(lambda: add(fetched())).result
            return last

        yield keep


def _done_layers(sampling: Sampling) -> int | None:
    """The layers that an earlier run has done; None where nothing is kept of a run."""
    return None if sampling.resume is None else sampling.resume.done.layers


def _count_steps(
    checkpoint: Checkpoint,
    documents: Documents,
    sampled: int,
    progress: Progress,
    done: int | None,
) -> tuple[Counter, int]:
    """Reports the corpus' tokens, done when they went through all layers (`done` of them already)
    and those are solved; and how many tokens' way through a layer costs as much as solving it."""
    total, routed = sum(documents.tokens.values()), len(checkpoint.moe_layers)
    cost = cost_of(checkpoint, documents.corpus, sampled)
    solving = int(cost.reroute / cost.forward * total * checkpoint.layers / routed)
    steps = checkpoint.layers * total + routed * solving
    solved = sum(layer < (done or 0) for layer in checkpoint.moe_layers)
    before = (done or 0) * total + solved * solving
    counter = Counter(progress, "calibrate", total, "tokens", steps=steps, before=before)
    return counter, solving


def _describe_run(
    checkpoint: Checkpoint,
    documents: Documents,
    observers: Sequence[Observer],
    shard: Shard,
    device: str,
) -> Statistics:
    """The statistics before anything is run: what the arrays will be about."""
    corpus = documents.corpus
    return Statistics(
        model=checkpoint.facts(),
        categories=corpus.categories,
        tokens=documents.tokens,
        skipped=0,
        corpora=({**corpus.description, "sha256": corpus.sha256},),
        samples=documents.samples,
        arrays={},
        sums=list_kinds(observers),
        shards=((corpus.sha256, shard.part, shard.parts),) if shard.parts > 1 else (),
        devices=(device,),
    )


def _calibrate_layer(
    forward: ForwardPass, number: int, task: _Task
) -> Callable[[], dict[str, Array]]:
    """Run a layer; what is returned gives its part of the statistics.

    Its weights and its sample are held no longer.
    """
    backend = forward.backend.of_layer(number)
    sums = _make_sums(backend, number, task)
    prefix = find_path(forward.model, get_decoder_layers(forward.model)[number])
    routed = number in task.checkpoint.moe_layers
    solution: Callable[[], dict[str, Array]] = dict
    with forward.load_layer(number) as module:
        layer = LoadedLayer(module, prefix, number, forward.family, forward.config)
        seen, written = _observe_layer(forward, layer, sums, task)
        if routed and task.keep:
            task.keep(join_seen(seen, len(task.tokens.batch), task.sizes))
        if routed and task.solve and seen:
            sample = join_sample(seen, task.tokens.keys)
            seen.clear()  # else it would be held twice while the removals are solved
            prepared = solve_loaded(
                layer, sample, sums.categories, backend, skip_bad=forward.skip_bad
            )
            solution = task.aside.submit(prepared).result

    def finish() -> dict[str, Array]:
        forward.check_layer(number)
        found = {**sums.arrays(routed=routed), **solution()}
        written()
        if routed and task.solve:
            task.count(task.solving)
        return found

    return finish


def _make_sums(backend: Backend, layer: int, task: _Task) -> LayerSums | DeviceSums:
    of_layer = layer, task.documents, task.checkpoint.experts, task.observers
    return DeviceSums(*of_layer, backend.device) if backend.queued else LayerSums(*of_layer)


def _observe_layer(
    forward: ForwardPass, layer: LoadedLayer, sums: LayerSums | DeviceSums, task: _Task
) -> tuple[list[Seen], Callable[[], None]]:
    """Run one layer and add up what it did; returns what the sampled tokens brought to it, and what
    waits until its Gram matrices are written."""
    names = name_experts(layer)
    observers: dict[int, Any] = {}
    seen: list[Seen] = []

    def begin_gram() -> Any:
        if task.gram is None:
            return None
        kind = GramSums if isinstance(sums, LayerSums) else DeviceGramSums
        return kind(task.gram, task.gram_tokens, task.checkpoint.experts, *(names or ()))

    total = begin_gram()

    def observe(group: Group) -> Any:
        masks = [forward.mask(batch) for batch in group]
        # A group that may be run again has sums of its own.
        gram = begin_gram() if forward.skip_bad else total
        observers[group[0].index] = sums.observe(group, masks, task.drawn, gram)
        return observers[group[0].index]

    def add(group: Group) -> None:
        observer = observers.pop(group[0].index)
        if names is not None and observer.unscored:
            raise FamilyError(
                f"the router of {names.first!r} was never called as "
                f"{layer.family.router.module!r}: correct [router] in {layer.family.file}"
            )
        sums.add(observer, names)
        if observer.seen is not None:
            seen.append(observer.seen)
        if total is not None and observer.gram is not total:
            total.merge(observer.gram)
        task.count(count_tokens(group))

    with hook_layer(layer.module, layer.prefix, layer.family, layer.number):
        forward.run(layer.module, layer.number, observe, add)
    if total is None or task.grams is None:
        return seen, lambda: None
    return seen, task.grams(total.fetch())
