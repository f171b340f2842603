"""The calibration pass: a checkpoint and a corpus in, statistics out.

Peak memory: one decoder layer, the corpus' hidden states (forward.stream's limit), one
micro-batch per worker, and the imatrix sums (16 bytes per input channel of every matrix).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from secateur.calibration.observe import (
    BatchWatcher,
    LayerSums,
    distinct_samples,
    hook_layer,
    reference_gates,
)
from secateur.calibration.rows import Corpus
from secateur.calibration.statistics import Array, Statistics
from secateur.checkpoint.reader import Checkpoint
from secateur.errors import CorpusError, FamilyError
from secateur.forward.batches import MicroBatch, micro_batches
from secateur.forward.experts import is_experts
from secateur.forward.skeleton import decoder_layers, path_of
from secateur.forward.stream import ForwardPass
from secateur.forward.weights import CheckpointWeights

Progress = Callable[[int, int], None]
"""Called with (tokens done, tokens in all), counted once per layer."""


def calibrate(
    checkpoint: Checkpoint,
    corpus: Corpus,
    *,
    workers: int | None = None,
    skip_bad: bool = False,
    progress: Progress = lambda done, total: None,
) -> Statistics:
    """Run the corpus through the checkpoint once and sum what its experts did.

    `workers` threads share the work (default: one per core); the result does not depend on
    them. A token that becomes NaN or infinite raises NumericError, or is left out and counted
    when `skip_bad`. Raises CorpusError when the corpus has no tokens.
    """
    batches = micro_batches(corpus.rows)
    if not batches:
        raise CorpusError("the corpus has no usable rows: nothing to calibrate on")
    source = CheckpointWeights(checkpoint)
    arrays: dict[str, Array] = {}
    with ForwardPass(
        source, batches, workers=workers or os.cpu_count() or 1, skip_bad=skip_bad
    ) as forward:
        total = corpus.tokens * checkpoint.layers
        for layer in range(checkpoint.layers):
            with forward.loaded(layer) as module:
                sums = LayerSums(layer, corpus, checkpoint.experts)
                _observe_layer(forward, module, layer, sums)
                progress((layer + 1) * corpus.tokens, total)
                arrays.update(sums.arrays(routed=layer in checkpoint.moe_layers))
        skipped = forward.skipped
    return Statistics(
        model=model_facts(checkpoint),
        categories=corpus.categories,
        tokens=dict(corpus.description["tokens_by_category"]),
        skipped=skipped,
        corpora=({**corpus.description, "sha256": corpus.sha256},),
        samples=tuple(distinct_samples(corpus)[1]),
        arrays={name: arrays[name] for name in sorted(arrays)},
    )


def model_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """What statistics and plans remember of a checkpoint, to recognise it again."""
    return {
        "source": checkpoint.source,
        "revision": checkpoint.revision,
        "identity": checkpoint.identity(),
        "family": checkpoint.family.name,
        "layers": checkpoint.layers,
        "experts": checkpoint.experts,
        "top_k": checkpoint.top_k,
    }


def _observe_layer(forward: ForwardPass, module: nn.Module, layer: int, sums: LayerSums) -> None:
    prefix = path_of(forward.model, decoder_layers(forward.model)[layer])
    path, experts = next(
        ((path, child) for path, child in module.named_modules() if is_experts(child)), ("", None)
    )
    number = int(getattr(experts, "num_experts", 0))
    watchers: dict[int, BatchWatcher] = {}

    def watch(batch: MicroBatch) -> BatchWatcher:
        watchers[batch.index] = BatchWatcher(batch, forward.counted(batch), number)
        return watchers[batch.index]

    def add(batch: MicroBatch) -> None:
        watcher = watchers.pop(batch.index)
        if experts is not None:
            _add_experts(sums, watcher, f"{prefix}.{path}", forward)
        counted = int(watcher.counted.sum())
        for name, squares in watcher.linears.items():
            sums.add_squares(name, squares.unsqueeze(0), [counted])

    with hook_layer(module, prefix, forward.family, layer):
        forward.run(module, layer, watch, add)


def _add_experts(sums: LayerSums, watcher: BatchWatcher, path: str, forward: ForwardPass) -> None:
    if watcher.scores is None:
        raise FamilyError(
            f"the router of {path!r} was never called as {forward.family.router.module!r}: "
            f"mend [router] in checkpoint/families/{forward.family.name}.toml"
        )
    gates = reference_gates(watcher.scores, watcher.experts)
    sums.add(watcher, gates, forward.skip_bad)
    kept = watcher.experts[watcher.counted].reshape(-1)
    behind = torch.bincount(kept, minlength=watcher.outer_squares.shape[0]).tolist()
    sums.add_squares(f"{path}.gate_up_proj", watcher.outer_squares, behind)
    sums.add_squares(f"{path}.down_proj", watcher.inner_squares, behind)
