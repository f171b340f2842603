"""Observing a model on a corpus: one streamed pass that fills the statistics.

The experts are watched through forward.experts; the inputs of dense linears, which no interface
passes on, through one pre-hook each; the router's scores through one hook on the router. Per
group of micro-batches everything is summed in a fixed order and then added exactly, so the
result does not depend on workers, nor on how whole groups are shared out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from secateur.calibration.token_sample import Drawn, Seen, join_drawn, see
from secateur.corpus.rows import Corpus
from secateur.errors import NumericError
from secateur.families.schema import Family
from secateur.forward.batches import Group
from secateur.forward.expert_batch import Member
from secateur.forward.expert_work import Assignments, Tile
from secateur.forward.experts import CURRENT_MEMBER, is_experts
from secateur.forward.kernels import add_squares, note_sizes
from secateur.statistics import exact
from secateur.statistics.statistics import FIELDS, SAMPLE_UNIT, Array
from secateur.system.jit import compiled


class Work(NamedTuple):
    """The pairs of token and expert of a layer on a micro-batch, ascending by expert, token.

    All [P]: the token's place, the expert, its gate, the output's norm and largest absolute
    element, the reference's gate.
    """

    token: NDArray[np.int64]
    expert: NDArray[np.int64]
    gate: NDArray[np.float64]
    norm: NDArray[np.float64]
    largest: NDArray[np.float32]
    reference: NDArray[np.float64]


_NO_WORK = Work(
    *(np.zeros(0, np.int64),) * 2, *(np.zeros(0),) * 2, np.zeros(0, np.float32), np.zeros(0)
)


class GroupObserver:
    """Notes what the experts of one layer do on one group (T tokens, K choices, E experts).

    Not a sum yet: per pair of token and expert it keeps the output's norm and largest element,
    and per expert the squared inputs. `LayerSums.add` turns them into sums. Threads write to
    places of their own: a member's, or an expert's.
    """

    def __init__(
        self,
        group: Group,
        masks: Sequence[Tensor],
        experts: int,
        drawn: Mapping[int, Drawn],
    ) -> None:
        self.group = group
        self.mask = torch.cat([part.reshape(-1) for part in masks])
        self.seen: Seen | None = None
        self.tokens = np.zeros(experts, np.int64)
        self.outer_squares = self.inner_squares = np.empty(0)
        # Owners for add_squares: 0, or -1 for a masked token.
        self._row_owners = [part.reshape(-1).numpy().astype(np.int64) - 1 for part in masks]
        self._drawn = join_drawn(group, drawn)
        self._linears: list[dict[str, NDArray[np.float64]]] = [{} for _ in group]
        self._last: list[tuple[Tensor, NDArray[np.float64]] | None] = [None] * len(group)
        self._scores: list[Tensor | None] = [None] * len(group)
        self._all_scores = self._experts = torch.empty(0)
        self._assignments: Assignments | None = None
        self._owner = np.empty(0, np.int64)
        self._norms = np.empty(0)
        self._largest = np.empty(0, np.float32)
        self._lock = threading.Lock()

    def scored(self, member: int, scores: Tensor) -> None:
        """The router's scores [t, E] of one micro-batch."""
        self._scores[member] = scores

    def on_dispatch(
        self, hidden: Tensor, experts: Tensor, routing_weights: Tensor, assignments: Assignments
    ) -> None:
        scores = [part for part in self._scores if part is not None]
        if len(scores) < len(self.group):
            return  # `unscored` is then true, and the caller raises
        self._all_scores = torch.cat(scores)
        self._experts, self._assignments = experts, assignments
        self.tokens = np.array(assignments.counts, np.int64)
        self._owner = np.repeat(np.arange(len(self.tokens)), self.tokens)
        self._norms = np.empty(len(assignments.token))
        self._largest = np.empty(len(assignments.token), np.float32)
        self.outer_squares = np.zeros((len(self.tokens), hidden.shape[-1]))
        if self._drawn is not None:
            scores_of = self._all_scores, experts, routing_weights.float()
            self.seen = see(self._drawn, self.mask, hidden, *scores_of)

    @property
    def unscored(self) -> bool:
        """True when the experts worked though the router was not seen."""
        return any(part is None for part in self._scores)

    def on_tile(self, tile: Tile) -> None:
        if self.unscored:
            return
        inputs, inner, outputs = tile.inputs.numpy(), tile.inner.numpy(), tile.outputs.numpy()
        with self._lock:
            if self.inner_squares.size == 0:
                self.inner_squares = np.zeros((len(self.tokens), inner.shape[-1]))
        add_squares(self.outer_squares, inputs, self._owner, tile.first)
        add_squares(self.inner_squares, inner, self._owner, tile.first)
        bits = self._largest.view(np.int32), outputs, outputs.view(np.int32)
        note_sizes(self._norms, *bits, tile.first)

    def linear(self, member: int, path: str, inputs: Tensor) -> None:
        """Squared inputs of a dense linear; projections that share an input share the work."""
        last = self._last[member]
        if last is None or last[0] is not inputs:
            flat = inputs.reshape(-1, inputs.shape[-1]).float().numpy()
            squares = np.zeros((1, flat.shape[-1]))
            add_squares(squares, flat, self._row_owners[member], 0)
            last = self._last[member] = inputs, squares[0]
        self._linears[member][path] = last[1]

    def linears(self) -> dict[str, NDArray[np.float64]]:
        """{running name: squared inputs float64 [N]}, added in the order of the members."""
        return {name: sum(part[name] for part in self._linears) for name in self._linears[0]}  # type: ignore[misc]

    def work(self) -> Work:
        """What the experts did, pair by pair."""
        if self._assignments is None:
            return _NO_WORK
        token, slot, gate, _ = self._assignments
        return Work(
            token.numpy(),
            self._owner,
            gate.double().numpy(),
            self._norms,
            self._largest,
            reference_gates(self._all_scores, self._experts)[token, slot].double().numpy(),
        )


class LayerSums:
    """The exact sums of one layer, over all micro-batches so far."""

    def __init__(self, layer: int, corpus: Corpus, experts: int) -> None:
        self._layer = layer
        self._owner, described = distinct_samples(corpus)
        self._categories = {name: number for number, name in enumerate(corpus.categories)}
        self._corpus = corpus
        shape = (len(corpus.categories), experts)
        self._tokens = np.zeros(shape, np.int64)
        self._sums = exact.zeros(len(FIELDS), *shape)
        self._largest = np.zeros(shape, np.float32)
        self._samples = np.zeros((len(described), experts), np.int64)
        self._squares: dict[str, exact.Limbs] = {}
        self._behind: dict[str, NDArray[np.int64]] = {}

    def add(self, observer: GroupObserver) -> None:
        """Add the experts' work on a group. Raises NumericError for NaN and infinity."""
        work = observer.work()
        finite = np.isfinite(work.gate * work.norm)
        if not finite.all():
            raise self._bad_token(observer, work, np.flatnonzero(~finite))
        category, sample = self._owners(observer.group)
        sums = np.zeros(self._sums.shape[1:])
        _sum_assignments(
            work, category, self._owner[sample], self._tokens, sums, self._largest, self._samples
        )
        self._sums = exact.add(self._sums, exact.limbs(sums))

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

    def _owners(self, group: Group) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(category, sample) of every token of a group, padding included; int64 [T]."""
        lengths = [batch.input_ids.shape[1] for batch in group for _ in batch.lines]
        lines = [line for batch in group for line in batch.lines]
        rows = [self._corpus.rows[line.row] for line in lines]
        categories = [self._categories[row.category] for row in rows]
        samples = [row.samples[line.document] for row, line in zip(rows, lines, strict=True)]
        return np.repeat(categories, lengths), np.repeat(samples, lengths)

    def _bad_token(
        self, observer: GroupObserver, work: Work, bad: NDArray[np.int64]
    ) -> NumericError:
        first = bad[np.argmin(work.token[bad])]
        sample = self._corpus.samples[int(self._owners(observer.group)[1][work.token[first]])]
        return NumericError(
            f"layer {self._layer}, expert {work.expert[first]} gave NaN or infinity for a token of "
            f"sample {sample.sha256[:12]} ({sample.source}): mend the weights, or leave such "
            "tokens out with --on-nan skip"
        )


@compiled
def _sum_assignments(
    work: Work,
    category: NDArray[np.int64],
    sample: NDArray[np.int64],
    tokens: NDArray[np.int64],
    sums: NDArray[np.float64],
    largest: NDArray[np.float32],
    samples: NDArray[np.int64],
) -> None:
    """Add the pairs, one after the other, to tokens, sums [FIELDS], largest [C, E] and samples
    [., E]; `category` and `sample` [T] are the tokens'."""
    for p in range(len(work.token)):
        token, expert = work.token[p], work.expert[p]
        place = category[token], expert
        gate, norm, reference = work.gate[p], work.norm[p], work.reference[p]
        tokens[place] += 1
        largest[place] = max(largest[place], work.largest[p])
        sums[0][place] += gate
        sums[1][place] += norm
        sums[2][place] += gate * norm
        sums[3][place] += norm * norm
        sums[4][place] += reference
        sums[5][place] += reference * norm
        samples[sample[token], expert] += np.int64(np.rint(abs(gate * norm) / SAMPLE_UNIT))


def reference_gates(scores: Tensor, experts: Tensor) -> Tensor:
    """float32 [T, K]: softmax of the router's scores over the chosen experts.

    The gate of the REAP reference (Cerebras reap, pruning_metrics.py, renormalised): no bias,
    scale or correction. Taken over the model's own choice, which is the reference's own for
    softmax routers. `scores` [T, E] are logits or log-probabilities, `experts` int64 [T, K].
    """
    return torch.softmax(scores.float().gather(-1, experts), -1)


def hook_layer(module: nn.Module, prefix: str, family: Family, layer: int) -> ExitStack:
    """Watch a loaded decoder layer; close the stack to stop.

    Puts the router's scores and the linears' inputs into the group's GroupObserver.
    """
    stack = ExitStack()
    router = family.fill(family.router.module, layer).removeprefix(prefix + ".")
    as_logits = torch.log if family.router.output == "probabilities" else (lambda scores: scores)

    def note_scores(_: nn.Module, __: Any, output: Any) -> None:
        observer, member = _find_member()
        if observer is not None:
            observer.scored(member, as_logits(output[0].float()))

    def note_inputs(name: str) -> Callable[[nn.Module, Any], None]:
        def note(_: nn.Module, arguments: Any) -> None:
            observer, member = _find_member()
            if observer is not None:
                observer.linear(member, name, arguments[0])

        return note

    for path, child in module.named_modules():
        if path == router and any(is_experts(other) for other in module.modules()):
            stack.callback(child.register_forward_hook(note_scores).remove)
        if isinstance(child, nn.Linear):
            handle = child.register_forward_pre_hook(note_inputs(f"{prefix}.{path}.weight"))
            stack.callback(handle.remove)
    return stack


def _find_member() -> tuple[GroupObserver | None, int]:
    """The observer of the group that this thread's micro-batch belongs to, and its number there."""
    member = CURRENT_MEMBER.get()
    if isinstance(member, Member) and isinstance(member.batch.observer, GroupObserver):
        return member.batch.observer, member.number
    return None, 0


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
