"""The calibration pass: a checkpoint and a corpus in, statistics out.

Peak memory: that of forward.stream, the sample of one layer and what solving it takes
(block_error), and the imatrix sums (16 bytes per input channel of every matrix).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from torch import nn

from secateur.calibration.cost import cost_of, limit_sample
from secateur.calibration.documents import Documents, list_documents
from secateur.calibration.gram_sums import GramSums
from secateur.calibration.group_observer import GroupObserver
from secateur.calibration.layer_sums import LayerSums, list_kinds
from secateur.calibration.model_hooks import hook_layer
from secateur.calibration.observers.base import Observer
from secateur.calibration.shards import WHOLE, Shard, take_groups
from secateur.calibration.solve import LoadedLayer, solve_loaded
from secateur.calibration.token_sample import (
    Drawn,
    Sampling,
    Seen,
    TokenDraw,
    draw,
    join_seen,
    to_layer_sample,
)
from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.rows import Corpus
from secateur.errors import CorpusError, FamilyError
from secateur.forward.batches import (
    Group,
    count_tokens,
    group_micro_batches,
    make_micro_batches,
)
from secateur.forward.skeleton import find_path, get_decoder_layers
from secateur.forward.stream import ForwardPass
from secateur.forward.weights import CheckpointWeights
from secateur.statistics.gram import GramKind
from secateur.statistics.gram_file import LayerGrams, write_grams
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
    keep: Callable[[LayerTokens], None] | None
    count: Callable[[int], None]
    """called with the tokens of a group that went through a layer, and `solving` after solving"""
    solving: int
    """as many tokens cost as much as solving a layer"""
    gram: GramKind | None
    grams: Callable[[LayerGrams], None] | None


def calibrate(
    checkpoint: Checkpoint,
    corpus: Corpus,
    *,
    sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    observers: Sequence[Observer] = (),
    shard: Shard = WHOLE,
    workers: int | None = None,
    skip_bad: bool = False,
    progress: Progress = no_progress,
) -> Statistics:
    """Run the corpus through the checkpoint once and sum what its experts did.

    `sampling` says how many tokens are sampled for the criterion `rerouted` (fewer, where a
    family's router needs more memory per token than there is for them), where the sample is
    kept, and whether Gram matrices are made. `observers` add sums of their own to the built-in
    ones (statistics.sums). Of a `shard` only its part of the corpus is run, and nothing is solved:
    that takes the samples of all parts.
    `workers` are the cores to use (default: all); the result does not depend on them. A token
    that becomes NaN or infinite raises NumericError, or is left out and counted when `skip_bad`.
    Raises CorpusError when the corpus has no tokens, or fewer groups of documents than parts.
    """
    hidden = checkpoint.family.number(checkpoint.config, "hidden")
    whole = make_micro_batches(corpus.rows, hidden)
    if not whole:
        raise CorpusError("the corpus has no usable rows: nothing to calibrate on")
    groups, numbers = take_groups(group_micro_batches(whole), shard)
    batches = [batch for group in groups for batch in group]
    documents = list_documents(corpus, batches)
    wanted = limit_sample(checkpoint, sampling.tokens)
    tokens = draw(whole, corpus, wanted, sampling.seed).renumber(numbers)
    begun = _describe_run(checkpoint, documents, observers, shard)
    arrays: dict[str, Array] = {}
    sizes = hidden, checkpoint.experts, checkpoint.top_k
    with ExitStack() as stack:
        keep = stack.enter_context(
            _keep_sample(checkpoint, sampling, tokens, begun, skip_bad=skip_bad)
        )
        grams = stack.enter_context(_keep_grams(sampling, begun))
        solve = shard.parts == 1 and wanted > 0
        count, solving = _count_steps(checkpoint, documents, wanted if solve else 0, progress)
        task = _Task(
            checkpoint, documents, observers, tokens.by_batch(), tokens, sizes, solve, keep,
            count, solving, sampling.gram, grams,
        )  # fmt: skip
        forward = stack.enter_context(
            ForwardPass(
                CheckpointWeights(checkpoint),
                batches,
                workers=workers or cores(),
                skip_bad=skip_bad,
                groups=groups,
            )
        )
        for layer in range(checkpoint.layers):
            arrays.update(_calibrate_layer(forward, layer, task))
        skipped = forward.skipped
    return replace(begun, skipped=skipped, arrays=dict(sorted(arrays.items())))


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
    with write_sample(sampling.keep, described, tokens.keys) as keep:
        yield keep


@contextmanager
def _keep_grams(
    sampling: Sampling, begun: Statistics
) -> Iterator[Callable[[LayerGrams], None] | None]:
    """What takes the layers' Gram matrices for their file; None where none are asked for."""
    if sampling.gram is None or sampling.gram_file is None:
        yield None
        return
    with write_grams(sampling.gram_file, sampling.gram, origin_of(begun)) as grams:
        yield grams


def _count_steps(
    checkpoint: Checkpoint, documents: Documents, sampled: int, progress: Progress
) -> tuple[Counter, int]:
    """Reports the corpus' tokens, done when they went through all layers and those are solved;
    and how many tokens' way through a layer costs as much as solving it."""
    total, routed = sum(documents.tokens.values()), len(checkpoint.moe_layers)
    cost = cost_of(checkpoint, documents.corpus, sampled)
    solving = int(cost.reroute / cost.forward * total * checkpoint.layers / routed)
    steps = checkpoint.layers * total + routed * solving
    return Counter(progress, "calibrate", total, "tokens", steps=steps), solving


def _describe_run(
    checkpoint: Checkpoint, documents: Documents, observers: Sequence[Observer], shard: Shard
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
    )


def _calibrate_layer(forward: ForwardPass, number: int, task: _Task) -> dict[str, Array]:
    """A layer's part of the statistics; its weights and its sample are held no longer."""
    sums = LayerSums(number, task.documents, task.checkpoint.experts, task.observers)
    prefix = find_path(forward.model, get_decoder_layers(forward.model)[number])
    routed = number in task.checkpoint.moe_layers
    with forward.load_layer(number) as module:
        layer = LoadedLayer(module, prefix, number, forward.family, forward.config)
        seen = _observe_layer(forward, layer, sums, task)
        arrays = sums.arrays(routed=routed)
        if routed and (task.solve or task.keep):
            tokens = join_seen(seen, len(task.tokens.batch), task.sizes)
            seen.clear()  # else it would be held twice while the removals are solved
            if task.keep:
                task.keep(tokens)
            if task.solve:
                sample = to_layer_sample(tokens, task.tokens.keys)
                del tokens
                arrays |= solve_loaded(
                    layer, sample, sums.categories, forward.workers, skip_bad=forward.skip_bad
                )
                task.count(task.solving)
    return arrays


def _observe_layer(
    forward: ForwardPass, layer: LoadedLayer, sums: LayerSums, task: _Task
) -> list[Seen]:
    """Run one layer and add up what it did; returns what the sampled tokens brought to it."""
    path, experts = layer.find_experts()
    number = int(getattr(experts, "num_experts", 0))
    observers: dict[int, GroupObserver] = {}
    seen: list[Seen] = []
    names = _name_inputs(layer, path, experts) if experts is not None else ("", "")

    def begin_gram() -> GramSums | None:
        return None if task.gram is None else GramSums(task.gram, number, *names)

    total = begin_gram()

    def observe(group: Group) -> GroupObserver:
        masks = [forward.mask(batch) for batch in group]
        observers[group[0].index] = GroupObserver(
            group, masks, number, task.drawn, sums.observers, begin_gram()
        )
        return observers[group[0].index]

    def add(group: Group) -> None:
        observer = observers.pop(group[0].index)
        if experts is not None:
            _add_experts(sums, observer, layer, path)
        if observer.seen is not None:
            seen.append(observer.seen)
        if total is not None and observer.gram is not None:
            total.merge(observer.gram)
        unmasked = int(observer.mask.sum())
        for name, squares in observer.linears().items():
            sums.add_squares(name, squares[None], [unmasked])
        task.count(count_tokens(group))

    with hook_layer(layer.module, layer.prefix, layer.family, layer.number):
        forward.run(layer.module, layer.number, observe, add)
    if total is not None and task.grams is not None:
        task.grams(total.layer())
    return seen


def _add_experts(sums: LayerSums, observer: GroupObserver, layer: LoadedLayer, path: str) -> None:
    full = f"{layer.prefix}.{path}"
    if observer.unscored:
        raise FamilyError(
            f"the router of {full!r} was never called as {layer.family.router.module!r}: "
            f"correct [router] in {layer.family.file}"
        )
    sums.add(observer)
    outer, inner = _name_inputs(layer, path, layer.module.get_submodule(path))
    sums.add_squares(outer, observer.outer_squares, observer.tokens)
    if observer.inner_squares.size:
        sums.add_squares(inner, observer.inner_squares, observer.tokens)


def _name_inputs(layer: LoadedLayer, path: str, experts: nn.Module) -> tuple[str, str]:
    """Running names of the experts' weights that see the layer's input, and their own inner one."""
    full = f"{layer.prefix}.{path}"
    first = "gate_up_proj" if getattr(experts, "has_gate", True) else "up_proj"
    return f"{full}.{first}", f"{full}.down_proj"
