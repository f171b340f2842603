"""Observing a model on a corpus: one streamed pass that fills the statistics.

The experts are watched through forward.experts; the inputs of dense linears, which no interface
passes on, through one pre-hook each; the router's scores through one hook on the router. Per
micro-batch everything is summed in a fixed order by one thread and then added exactly, so the
result does not depend on workers, nor on how whole micro-batches are shared out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from secateur.calibration import exact
from secateur.calibration.statistics import FIELDS, SAMPLE_UNIT, Array
from secateur.calibration.token_sample import Drawn, Seen, see
from secateur.checkpoint.families import Family
from secateur.corpus.rows import Corpus
from secateur.errors import NumericError
from secateur.forward.batches import MicroBatch
from secateur.forward.experts import WATCHER, ExpertPairs, is_experts


class Work(NamedTuple):
    """The pairs of token and expert of a layer on a micro-batch, ascending by expert, token.

    All [P]: the token's place, the expert, its gate, the output's norm and largest absolute
    element, the reference's gate.
    """

    token: NDArray[np.int64]
    expert: NDArray[np.int64]
    gate: NDArray[np.float64]
    norm: NDArray[np.float64]
    largest: NDArray[np.float64]
    reference: NDArray[np.float64]


class BatchWatcher:
    """Notes what the experts of one layer do on one micro-batch (T tokens, K choices, E experts).

    Not a sum yet: per pair of token and expert it keeps the output's norm and largest element,
    and per expert the squared inputs. `LayerSums.add` turns them into sums.
    """

    def __init__(
        self, batch: MicroBatch, counted: Tensor, experts: int, drawn: Drawn | None
    ) -> None:
        self.batch = batch
        self.counted = counted.reshape(-1)
        self.seen: Seen | None = None
        self.scores: Tensor | None = None
        self.tokens = np.zeros(experts, np.int64)
        self.outer_squares = self.inner_squares = np.empty(0)
        self.linears: dict[str, NDArray[np.float64]] = {}
        self._runs = _runs(self.counted)
        self._drawn = drawn
        self._last: tuple[Tensor, NDArray[np.float64]] | None = None
        self._experts = torch.empty(0)
        self._places: list[tuple[Tensor, Tensor, Tensor]] = []
        self._squared_norms = self._squared_largest = torch.empty(0)
        self._pairs = 0

    def chosen(self, hidden: Tensor, experts: Tensor, gates: Tensor) -> None:
        self._experts = experts
        self._squared_norms = torch.empty(experts.numel())
        self._squared_largest = torch.empty(experts.numel())
        sent = torch.zeros(len(hidden), len(self.tokens)).scatter_(1, experts, 1.0)
        # Tokens that do not count may be NaN, and zero times NaN is NaN.
        squares = hidden.square().masked_fill_(~self.counted.unsqueeze(-1), 0.0)
        self.outer_squares = (sent.t() @ squares).double().numpy()
        if self._drawn is not None and self.scores is not None:
            self.seen = see(self._drawn, self.counted, hidden, self.scores, experts, gates.float())

    def pairs(self, pairs: ExpertPairs) -> None:
        if self.inner_squares.size == 0:
            self.inner_squares = np.zeros((len(self.tokens), pairs.inner.shape[-1]))
        number = len(pairs.token)
        here = slice(self._pairs, self._pairs + number)
        squares = pairs.outputs.square()
        torch.sum(squares, -1, out=self._squared_norms[here])
        torch.amax(squares, -1, out=self._squared_largest[here])
        self.inner_squares[pairs.expert] = _squares(pairs.inner.numpy(), [slice(None)])
        self._places.append((pairs.token, pairs.slot, pairs.gate))
        self.tokens[pairs.expert] = number
        self._pairs += number

    def linear(self, path: str, inputs: Tensor) -> None:
        """Squared inputs of a dense linear; projections that share an input share the work."""
        if self._last is None or self._last[0] is not inputs:
            flat = inputs.reshape(-1, inputs.shape[-1]).float().numpy()
            self._last = (inputs, _squares(flat, self._runs))
        self.linears[path] = self._last[1]

    def work(self) -> Work:
        """What the experts did, pair by pair."""
        if not self._places:
            return Work(*(np.zeros(0, np.int64),) * 2, *(np.zeros(0),) * 4)
        token, slot, gate = (torch.cat(parts) for parts in zip(*self._places, strict=True))
        assert self.scores is not None  # calibrate checks that the router was seen
        reference = reference_gates(self.scores, self._experts)[token, slot]
        return Work(
            token.numpy(),
            np.repeat(np.arange(len(self.tokens)), self.tokens),
            gate.double().numpy(),
            self._squared_norms[: self._pairs].sqrt().double().numpy(),
            self._squared_largest[: self._pairs].sqrt().double().numpy(),
            reference.double().numpy(),
        )


def _runs(counted: Tensor) -> list[slice]:
    """The stretches of neighbouring tokens that count."""
    edges = np.flatnonzero(np.diff(counted.numpy().astype(np.int8), prepend=0, append=0))
    return [slice(start, stop) for start, stop in edges.reshape(-1, 2).tolist()]


def _squares(inputs: NDArray[np.float32], runs: Sequence[slice]) -> NDArray[np.float64]:
    """float64 [N]: squares of inputs [T, N], summed over the tokens of the runs.

    einsum squares and adds in one pass over memory, several times as fast as torch in two.
    """
    total = np.zeros(inputs.shape[-1])
    for run in runs:
        total += np.einsum("tn,tn->n", inputs[run], inputs[run])
    return total


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

    def add(self, watcher: BatchWatcher) -> None:
        """Add the experts' work on a micro-batch. Raises NumericError for NaN and infinity."""
        work = watcher.work()
        finite = np.isfinite(work.gate * work.norm)
        if not finite.all():
            raise self._bad_token(watcher, work, np.flatnonzero(~finite))
        category, sample = self._owners(watcher.batch)
        flat = category[work.token] * self._experts + work.expert
        size = self._tokens.size
        self._tokens += np.bincount(flat, minlength=size).reshape(self._tokens.shape)
        gates, norms, reference = work.gate, work.norm, work.reference
        fields = (gates, norms, gates * norms, norms * norms, reference, reference * norms)
        sums = [np.bincount(flat, field, minlength=size) for field in fields]
        self._sums = exact.add(self._sums, exact.limbs(np.reshape(sums, self._sums.shape[1:])))
        np.maximum.at(self._largest.reshape(-1), flat, work.largest.astype(np.float32))
        weighted = np.rint(np.abs(gates * norms) / SAMPLE_UNIT).astype(np.int64)
        rows = self._owner[sample[work.token]]
        np.add.at(self._samples.reshape(-1), rows * self._experts + work.expert, weighted)

    def add_squares(self, name: str, squares: NDArray[np.float64], tokens: ArrayLike) -> None:
        """Add squared inputs [M, N] of the matrices called `name`, seen by `tokens` [M]."""
        values = exact.limbs(squares)
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

    def _owners(self, batch: MicroBatch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(category, sample) of every token of a micro-batch, filling included; int64 [T]."""
        length = batch.input_ids.shape[1]
        rows = [self._corpus.rows[line.row] for line in batch.lines]
        categories = [self._categories[row.category] for row in rows]
        samples = [row.samples[line.document] for row, line in zip(rows, batch.lines, strict=True)]
        return np.repeat(categories, length), np.repeat(samples, length)

    def _bad_token(self, watcher: BatchWatcher, work: Work, bad: NDArray[np.int64]) -> NumericError:
        first = bad[np.argmin(work.token[bad])]
        sample = self._corpus.samples[int(self._owners(watcher.batch)[1][work.token[first]])]
        return NumericError(
            f"layer {self._layer}, expert {work.expert[first]} gave NaN or infinity for a token of "
            f"sample {sample.sha256[:12]} ({sample.source}): mend the weights, or leave such "
            "tokens out with --on-nan skip"
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
        key = (sample.sha256, sample.category)
        named = {"source": sample.source, "category": sample.category, "sha256": sample.sha256}
        entry = described.setdefault(key, {**named, "tokens": 0})
        entry["tokens"] += sample.tokens
        entry["source"] = min(entry["source"], sample.source)
    places = {key: place for place, key in enumerate(sorted(described))}
    owner = [places[sample.sha256, sample.category] for sample in corpus.samples]
    return np.array(owner, np.int64), [described[key] for key in sorted(described)]
