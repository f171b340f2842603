"""Observing a model on a corpus: one streamed pass that fills the statistics.

The experts are watched through forward.experts; the inputs of dense linears, which no interface
passes on, through one pre-hook each; the router's scores through one hook on the router. Per
micro-batch everything is summed in a fixed order by one thread and then added exactly, so the
result does not depend on workers or shards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.calibration import exact
from secateur.calibration.statistics import FIELDS, SAMPLE_UNIT, Array, sample_key
from secateur.calibration.token_sample import Drawn, Seen, see
from secateur.checkpoint.families import Family
from secateur.corpus.rows import Corpus
from secateur.errors import NumericError
from secateur.forward.batches import MicroBatch
from secateur.forward.experts import WATCHER, ExpertPairs, is_experts


class BatchWatcher:
    """Notes what the experts of one layer do on one micro-batch (T tokens, K choices, E experts).

    Not a sum yet: per token and choice it keeps the output's norm and largest element, and per
    expert the squared inputs. `LayerSums.add` turns them into sums.
    """

    def __init__(
        self, batch: MicroBatch, counted: Tensor, experts: int, drawn: Drawn | None
    ) -> None:
        self.batch = batch
        self.counted = counted.reshape(-1)
        self._all = bool(self.counted.all())
        self._number = experts
        self._drawn = drawn
        self.seen: Seen | None = None
        self.scores: Tensor | None = None
        self.experts = self.gates = self.norms = self.largest = torch.empty(0)
        self.outer_squares = self.inner_squares = torch.empty(0)
        self.linears: dict[str, Tensor] = {}
        self._last: tuple[Tensor, Tensor] | None = None

    def chosen(self, hidden: Tensor, experts: Tensor, gates: Tensor) -> None:
        self.experts, self.gates = experts, gates.float()
        self.norms = torch.zeros(self.gates.shape)
        self.largest = torch.zeros(self.gates.shape)
        self.outer_squares = torch.zeros(self._number, hidden.shape[-1])
        if self._drawn is not None and self.scores is not None:
            self.seen = see(self._drawn, self.counted, hidden, self.scores, experts, self.gates)

    def pairs(self, pairs: ExpertPairs) -> None:
        if self.inner_squares.numel() == 0:
            self.inner_squares = torch.zeros(self._number, pairs.inner.shape[-1])
        norms = torch.linalg.vector_norm(pairs.outputs, dim=-1)
        self.norms[pairs.token, pairs.slot] = norms
        self.largest[pairs.token, pairs.slot] = pairs.outputs.abs().amax(-1)
        inputs, inner = pairs.inputs, pairs.inner
        if not bool(torch.isfinite(norms.sum())):
            good = torch.isfinite(norms)
            inputs, inner = inputs[good], inner[good]
        self.outer_squares[pairs.expert] = inputs.square().sum(0)
        self.inner_squares[pairs.expert] = inner.square().sum(0)

    def linear(self, path: str, inputs: Tensor) -> None:
        """Squared inputs of a dense linear; projections that share an input share the work."""
        if self._last is None or self._last[0] is not inputs:
            flat = inputs.reshape(-1, inputs.shape[-1])
            if not self._all and flat.shape[0] == self.counted.shape[0]:
                flat = flat[self.counted]
            self._last = (inputs, flat.float().square().sum(0))
        self.linears[path] = self._last[1]


class LayerSums:
    """The exact sums of one layer, over all micro-batches so far."""

    def __init__(self, layer: int, corpus: Corpus, experts: int) -> None:
        self._layer = layer
        self._owner, described = distinct_samples(corpus)
        self._experts = experts
        self._categories = {name: number for number, name in enumerate(corpus.categories)}
        self._corpus = corpus
        shape = (len(corpus.categories), experts)
        self._tokens = np.zeros(shape, np.int64)
        self._sums = exact.zeros(len(FIELDS), *shape)
        self._largest = np.zeros(shape, np.float32)
        self._samples = np.zeros((len(described), experts), np.int64)
        self._squares: dict[str, exact.Limbs] = {}
        self._behind: dict[str, NDArray[np.int64]] = {}

    def add(self, watcher: BatchWatcher, reference_gates: Tensor, skip_bad: bool) -> None:
        """Add the experts' work on a micro-batch; `reference_gates` is float32 [T, K].

        A NaN or infinite output raises NumericError, or its token is left out when `skip_bad`.
        """
        good = torch.isfinite(watcher.norms * watcher.gates).all(-1)
        if not skip_bad and not bool(good[watcher.counted].all()):
            raise self._bad_token(watcher, ~good & watcher.counted)
        kept = watcher.counted & good
        experts = watcher.experts[kept].numpy()
        gates = watcher.gates[kept].double().numpy()
        norms = watcher.norms[kept].double().numpy()
        reference = reference_gates[kept].double().numpy()
        category, sample = self._owners(watcher, kept)
        flat = (category[:, None] * self._experts + experts).reshape(-1)
        size = self._tokens.size
        self._tokens += np.bincount(flat, minlength=size).reshape(self._tokens.shape)
        fields = (gates, norms, gates * norms, norms * norms, reference, reference * norms)
        sums = [np.bincount(flat, field.reshape(-1), minlength=size) for field in fields]
        self._sums = exact.add(self._sums, exact.limbs(np.reshape(sums, self._sums.shape[1:])))
        largest = self._largest.reshape(-1)
        np.maximum.at(largest, flat, watcher.largest[kept].numpy().reshape(-1))
        weighted = np.rint(np.abs(gates * norms) / SAMPLE_UNIT).astype(np.int64)
        np.add.at(self._samples, (self._owner[sample][:, None], experts), weighted)

    def add_squares(self, name: str, squares: Tensor, tokens: Sequence[int]) -> None:
        """Add squared inputs [M, N] of the matrices called `name`, seen by `tokens` [M]."""
        values = exact.limbs(squares.double().numpy())
        behind = np.asarray(tokens, np.int64)
        if name in self._squares:
            values = exact.add(self._squares[name], values)
            behind = self._behind[name] + behind
        self._squares[name], self._behind[name] = values, behind

    def arrays(self, routed: bool) -> dict[str, Array]:
        """The layer's part of the statistics; without experts' sums when it has none."""
        named: dict[str, Array] = {}
        if routed:
            prefix = f"layer.{self._layer}"
            named[f"{prefix}.tokens"] = self._tokens
            named[f"{prefix}.sums"] = self._sums
            named[f"{prefix}.largest"] = self._largest
            named[f"{prefix}.samples"] = self._samples
        for name, squares in self._squares.items():
            named[f"imatrix.{name}.sums"] = squares
            named[f"imatrix.{name}.tokens"] = self._behind[name]
        return named

    def _owners(
        self, watcher: BatchWatcher, kept: Tensor
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(category, sample) of every kept token of a micro-batch."""
        length = watcher.batch.input_ids.shape[1]
        categories, samples = [], []
        for line in watcher.batch.lines:
            row = self._corpus.rows[line.row]
            categories.append(self._categories[row.category])
            samples.append(row.samples[line.document])
        where = kept.numpy()
        return np.repeat(categories, length)[where], np.repeat(samples, length)[where]

    def _bad_token(self, watcher: BatchWatcher, bad: Tensor) -> NumericError:
        token = int(bad.nonzero()[0])
        products = watcher.norms[token] * watcher.gates[token]
        expert = int(watcher.experts[token][~torch.isfinite(products)][0])
        _, samples = self._owners(watcher, torch.ones_like(bad))
        sample = self._corpus.samples[int(samples[token])]
        return NumericError(
            f"layer {self._layer}, expert {expert} gave NaN or infinity for a token of sample "
            f"{sample.sha256[:12]} ({sample.source}): mend the weights, or leave such tokens out "
            "with --on-nan skip"
        )


def reference_gates(scores: Tensor, experts: Tensor) -> Tensor:
    """float32 [T, K]: softmax of the router's scores over the chosen experts.

    The gate of the REAP reference (Cerebras reap, pruning_metrics.py, renormalised): no bias,
    scale or correction. Taken over the model's own choice, which is the reference's own for
    softmax routers. `scores` [T, E] are logits or log-probabilities, `experts` int64 [T, K].
    """
    return torch.softmax(scores.float().gather(-1, experts), -1)


def hook_layer(module: nn.Module, prefix: str, family: Family, layer: int) -> ExitStack:
    """Watch a loaded decoder layer; close the stack to stop.

    Puts the router's scores and the linears' inputs into the thread's BatchWatcher.
    """
    stack = ExitStack()
    router = family.fill(family.router.module, layer).removeprefix(prefix + ".")
    as_logits = torch.log if family.router.output == "probabilities" else (lambda scores: scores)

    def note_scores(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(watcher := WATCHER.get(), BatchWatcher):
            watcher.scores = as_logits(output[0].float())

    def note_inputs(name: str) -> Callable[[nn.Module, Any], None]:
        def note(_: nn.Module, arguments: Any) -> None:
            if isinstance(watcher := WATCHER.get(), BatchWatcher):
                watcher.linear(name, arguments[0])

        return note

    for path, child in module.named_modules():
        if path == router and any(is_experts(other) for other in module.modules()):
            stack.callback(child.register_forward_hook(note_scores).remove)
        if isinstance(child, nn.Linear):
            handle = child.register_forward_pre_hook(note_inputs(f"{prefix}.{path}.weight"))
            stack.callback(handle.remove)
    return stack


def distinct_samples(corpus: Corpus) -> tuple[NDArray[np.int64], list[dict[str, Any]]]:
    """(owner, samples): the corpus' samples as statistics list them, sorted by `sample_key`.

    `owner` int64 [samples of the corpus] gives each one's place; equal content shares a place.
    """
    described: dict[tuple[str, str], dict[str, Any]] = {}
    for sample in corpus.samples:
        whole = asdict(sample)
        entry = described.setdefault(sample_key(whole), {**whole, "tokens": 0})
        entry["tokens"] += sample.tokens
        entry["source"] = min(entry["source"], sample.source)
    places = {key: place for place, key in enumerate(sorted(described))}
    owner = [places[sample.sha256, sample.category] for sample in corpus.samples]
    return np.array(owner, np.int64), [described[key] for key in sorted(described)]
