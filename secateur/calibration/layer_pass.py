"""The calibration pass: a checkpoint and a corpus in, statistics out.

Peak memory: that of forward.stream, the sample of one layer and what solving it takes
(branch_error), and the imatrix sums (16 bytes per input channel of every matrix).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secateur.calibration.branch_error import most_tokens, read_norm
from secateur.calibration.documents import list_documents
from secateur.calibration.group_observer import GroupObserver
from secateur.calibration.layer_sums import LayerSums, list_kinds
from secateur.calibration.model_hooks import hook_layer
from secateur.calibration.observers.base import Observer
from secateur.calibration.removal_search import LayerSample, solve_layer
from secateur.calibration.removal_search import cost as reroute_cost
from secateur.calibration.routing import routing_of
from secateur.calibration.token_sample import Drawn, Seen, draw, join
from secateur.checkpoint.inspection import inspect_checkpoint
from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.rows import Corpus
from secateur.errors import CorpusError, FamilyError
from secateur.families.schema import Family
from secateur.forward.batches import Group, make_micro_batches
from secateur.forward.experts import is_experts
from secateur.forward.skeleton import find_path, get_decoder_layers
from secateur.forward.stream import ForwardPass
from secateur.forward.weights import CheckpointWeights
from secateur.statistics.statistics import Statistics
from secateur.statistics.sums import Array
from secateur.system.progress import Progress, no_progress
from secateur.system.resources import cores

REROUTE_TOKENS = 16384
"""Tokens sampled per layer for the criterion `rerouted`, shared evenly by the categories."""


@dataclass(frozen=True)
class Cost:
    """Floating point operations of a calibration run, known before it starts.

    `forward` is the pass itself (two per active parameter and token, attention over the context
    left out), `reroute` what the criterion `rerouted` adds.
    """

    forward: float
    reroute: float

    def sentence(self) -> str:
        """For a person, before the run."""
        told = f"about {self.forward / 1e12:.3g} TFLOP for the pass"
        if not self.reroute:
            return told
        return told + (
            f" and {self.reroute / 1e12:.3g} TFLOP ({self.reroute / self.forward:.2f} times that) "
            "to solve the criterion 'rerouted'"
        )


def cost_of(checkpoint: Checkpoint, corpus: Corpus, reroute_tokens: int = REROUTE_TOKENS) -> Cost:
    """What calibrating a checkpoint on a corpus will cost. Reads headers only."""
    family, config = checkpoint.family, checkpoint.config
    sampled = min(_affordable(checkpoint, reroute_tokens), corpus.tokens)
    per_layer = reroute_cost(
        routing_of(family, config).ranks(checkpoint.experts),
        sampled,
        family.number(config, "hidden"),
        family.number(config, "expert_width"),
        gated=True,
        norm=family.post_norm is not None,
    )
    embedding = family.number(config, "vocab") * family.number(config, "hidden")
    active = inspect_checkpoint(checkpoint).active - embedding
    return Cost(
        forward=2.0 * active * corpus.tokens,
        reroute=per_layer * len(checkpoint.moe_layers) if sampled else 0.0,
    )


def calibrate(
    checkpoint: Checkpoint,
    corpus: Corpus,
    *,
    reroute_tokens: int = REROUTE_TOKENS,
    seed: int = 0,
    workers: int | None = None,
    skip_bad: bool = False,
    observers: Sequence[Observer] = (),
    progress: Progress = no_progress,
) -> Statistics:
    """Run the corpus through the checkpoint once and sum what its experts did.

    `reroute_tokens` are sampled for the criterion `rerouted` (0 leaves it out), with `seed`;
    fewer, where a family's router needs more memory per token than there is for them.
    `observers` add sums of their own to the built-in ones (statistics.sums).
    `workers` are the cores to use (default: all); the result does not depend on them. A token
    that becomes NaN or infinite raises NumericError, or is left out and counted when `skip_bad`.
    Raises CorpusError when the corpus has no tokens.
    """
    hidden = checkpoint.family.number(checkpoint.config, "hidden")
    batches = make_micro_batches(corpus.rows, hidden)
    if not batches:
        raise CorpusError("the corpus has no usable rows: nothing to calibrate on")
    documents = list_documents(corpus, batches)
    sampled = _affordable(checkpoint, reroute_tokens)
    drawn = draw(batches, corpus, sampled, seed) if sampled else {}
    arrays: dict[str, Array] = {}
    with ForwardPass(
        CheckpointWeights(checkpoint), batches, workers=workers or cores(), skip_bad=skip_bad
    ) as forward:
        for layer in range(checkpoint.layers):
            sums = LayerSums(layer, documents, checkpoint.experts, observers)
            arrays.update(_calibrate_layer(forward, layer, checkpoint, sums, drawn))
            done, total = (layer + 1) * corpus.tokens, checkpoint.layers * corpus.tokens
            progress("calibrate", done, total, "tokens")
        skipped = forward.skipped
    return Statistics(
        model=checkpoint.facts(),
        categories=corpus.categories,
        tokens=documents.tokens,
        skipped=skipped,
        corpora=({**corpus.description, "sha256": corpus.sha256},),
        samples=documents.samples,
        arrays={name: arrays[name] for name in sorted(arrays)},
        sums=list_kinds(observers),
    )


def _calibrate_layer(
    forward: ForwardPass,
    layer: int,
    checkpoint: Checkpoint,
    sums: LayerSums,
    drawn: Mapping[int, Drawn],
) -> dict[str, Array]:
    """A layer's part of the statistics; its weights and its sample are held no longer."""
    with forward.load_layer(layer) as module:
        seen = _observe_layer(forward, module, layer, sums, drawn)
        arrays = sums.arrays(routed=layer in checkpoint.moe_layers)
        if seen:
            sample = join(seen)
            seen.clear()  # else it would be held twice while the removals are solved
            arrays |= _solve(forward, module, layer, sample, sums.categories)
    return arrays


def _observe_layer(
    forward: ForwardPass,
    module: nn.Module,
    layer: int,
    sums: LayerSums,
    drawn: Mapping[int, Drawn],
) -> list[Seen]:
    """Run one layer and add up what it did; returns what the sampled tokens brought to it."""
    prefix = find_path(forward.model, get_decoder_layers(forward.model)[layer])
    path, experts = experts_of(module)
    number = int(getattr(experts, "num_experts", 0))
    observers: dict[int, GroupObserver] = {}
    seen: list[Seen] = []

    def observe(group: Group) -> GroupObserver:
        masks = [forward.mask(batch) for batch in group]
        observers[group[0].index] = GroupObserver(group, masks, number, drawn, sums.observers)
        return observers[group[0].index]

    def add(group: Group) -> None:
        observer = observers.pop(group[0].index)
        if experts is not None:
            _add_experts(sums, observer, f"{prefix}.{path}", forward.family)
        if observer.seen is not None:
            seen.append(observer.seen)
        unmasked = int(observer.mask.sum())
        for name, squares in observer.linears().items():
            sums.add_squares(name, squares[None], [unmasked])

    with hook_layer(module, prefix, forward.family, layer):
        forward.run(module, layer, observe, add)
    return seen


def experts_of(module: nn.Module) -> tuple[str, nn.Module | None]:
    """(path, module) of the routed experts of a decoder layer; ("", None) when it is dense."""
    for path, child in module.named_modules():
        if is_experts(child):
            return path, child
    return "", None


def _affordable(checkpoint: Checkpoint, tokens: int) -> int:
    """As many of the wanted sample tokens as fit into branch_error's memory limit."""
    ranks = routing_of(checkpoint.family, checkpoint.config).ranks(checkpoint.experts)
    return min(tokens, most_tokens(ranks, norm=checkpoint.family.post_norm is not None))


def _solve(
    forward: ForwardPass, module: nn.Module, layer: int, sample: LayerSample, categories: int
) -> dict[str, Array]:
    """The order of removal of one layer, for both aims, under the names of the statistics."""
    family, prefix = (
        forward.family,
        find_path(forward.model, get_decoder_layers(forward.model)[layer]),
    )

    def inside(template: str | None) -> str | None:
        return family.fill(template, layer).removeprefix(prefix + ".") if template else None

    def vector(role: str) -> NDArray[np.float64] | None:
        row = next((row for row in family.rows if row.role == role), None)
        if row is None:
            return None
        value = module.state_dict()[str(inside(row.name))]
        return np.asarray(value.double().numpy())

    post_norm = inside(family.post_norm)
    experts = experts_of(module)[1]
    assert experts is not None  # the sample came from them
    removals = solve_layer(
        experts,
        read_norm(module.get_submodule(post_norm) if post_norm else None),
        routing_of(
            family,
            forward.config,
            vector("router.correction_bias"),
            vector("router.expert_scale"),
        ),
        sample,
        categories=categories,
        workers=forward.workers,
        skip_bad=forward.skip_bad,
    )
    return {
        f"layer.{layer}.rerouted.{aim}.{what}": getattr(removal, what)
        for aim, removal in removals.items()
        for what in ("errors", "errors_by_category", "scores")
    }


def _add_experts(sums: LayerSums, observer: GroupObserver, path: str, family: Family) -> None:
    if observer.unscored:
        raise FamilyError(
            f"the router of {path!r} was never called as {family.router.module!r}: "
            f"correct [router] in {family.file}"
        )
    sums.add(observer)
    sums.add_squares(f"{path}.gate_up_proj", observer.outer_squares, observer.tokens)
    if observer.inner_squares.size:
        sums.add_squares(f"{path}.down_proj", observer.inner_squares, observer.tokens)
