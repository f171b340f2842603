"""The streamed forward: all micro-batches through one layer, then the next layer's weights.

The model's own forward is recorded once per micro-batch (forward.layer_calls); then each layer is
loaded, called as recorded on all micro-batches, and freed. Large stacks of experts stay in their
file, where each group of micro-batches, which share the experts (forward.expert_batch), maps a
matrix at a time. Peak memory: the layer without those; per thread that computes, one matrix of an
expert and one micro-batch; the hidden states (in a mapped file beyond `hidden_limit`); the recorded
calls (CALLS_LIMIT); and what a layer holds of the other micro-batches of GROUPS_IN_FLIGHT groups
while they wait: some five times their hidden states.

Every thread computes with a single torch thread, and groups do not depend on the threads, so the
bits do not either.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.errors import NumericError
from secateur.forward.batches import Group, MicroBatch, group_micro_batches
from secateur.forward.compute_slots import ComputeSlots
from secateur.forward.expert_batch import Aborted, ExpertBatch
from secateur.forward.expert_work import ExpertObserver
from secateur.forward.layer_calls import LayerCalls, replace_layers
from secateur.forward.norms import fuse_norms
from secateur.forward.output_head import load_output_head
from secateur.forward.skeleton import (
    build_skeleton,
    fill_parameters,
    find_path,
    get_decoder_layers,
    name_layer_tensors,
)
from secateur.forward.weights import WeightSource

HIDDEN_LIMIT = 2 << 30
"""Bytes of hidden states kept in memory; more go to a mapped file."""
GROUPS_IN_FLIGHT = 3
"""Groups begun at a time: compute slots that one does not use at its end serve the next."""


class _Step(NamedTuple):
    """A group on its way through a layer."""

    rank: int
    group: Group
    experts: ExpertBatch
    done: list[Future[tuple[Tensor, Tensor]]]
    """per micro-batch: its output, and which of its tokens are broken"""


class ForwardPass:
    """One pass of micro-batches through a model, layer by layer.

    Use as a context manager: it embeds on entering; then run layers 0, 1, ..., each inside
    `load_layer`, then ask for `logits` inside `load_head`. Layers may be left out at the
    end only. `workers` are the cores to keep busy: half as many threads again compute, since one
    that waits for Python's lock leaves its core to another. `groups` are the micro-batches in
    groups that were made before (default: they are grouped here).
    """

    def __init__(
        self,
        source: WeightSource,
        batches: Sequence[MicroBatch],
        *,
        workers: int,
        hidden_limit: int = HIDDEN_LIMIT,
        skip_bad: bool = False,
        groups: Sequence[Group] | None = None,
    ) -> None:
        self.model = build_skeleton(source)
        self.batches = batches
        self.groups = group_micro_batches(batches) if groups is None else tuple(groups)
        self.family = source.family
        self.config = source.config
        self.skipped = 0
        self.skip_bad = skip_bad
        self._masks = [batch.mask.clone() for batch in batches]
        self._source = source
        self.workers = max(1, workers)
        self._hidden_limit = hidden_limit
        self._stack = ExitStack()
        self._hidden: list[Tensor] = []

    def __enter__(self) -> ForwardPass:
        threads = torch.get_num_threads()
        self._stack.callback(torch.set_num_threads, threads)
        # In this thread too: a team of torch threads would spin on cores that the workers need.
        torch.set_num_threads(1)

        def start_pool(threads: int) -> ThreadPoolExecutor:
            return self._stack.enter_context(
                ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
            )

        try:
            self._pool = start_pool(self.workers)
            # A thread for every micro-batch that may wait for others; slots limit who computes.
            self._members = start_pool(GROUPS_IN_FLIGHT * max(map(len, self.groups), default=1))
            self._slots = ComputeSlots(self.workers + self.workers // 2)
            self._stack.enter_context(
                fill_parameters(self.model, self._name_outside_layers(), self._source)
            )
            self._hidden = self._embed()
            self._calls = LayerCalls(self.model, self.batches, self._hidden)
        except BaseException:
            self._hidden = []
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            # Else the pool would finish every queued micro-batch before it lets the error out.
            self._pool.shutdown(cancel_futures=True)
            self._members.shutdown(cancel_futures=True)
        self._hidden = []
        del self._calls
        self._stack.close()

    def hidden(self, batch: MicroBatch) -> Tensor:
        """float32 [B, L, H]: the hidden states of a micro-batch before the next layer."""
        return self._hidden[batch.index]

    def mask(self, batch: MicroBatch) -> Tensor:
        """bool [B, L]: the tokens of a micro-batch that (still) count: no padding, not masked."""
        return self._masks[batch.index]

    @contextmanager
    def load_layer(self, layer: int) -> Iterator[nn.Module]:
        """The decoder layer `layer` with its weights."""
        module = get_decoder_layers(self.model)[layer]
        with (
            fill_parameters(module, name_layer_tensors(self.model, layer), self._source),
            fuse_norms(module),
        ):
            yield module

    def run(
        self,
        module: nn.Module,
        layer: int,
        observe: Callable[[Group], ExpertObserver | None] = lambda _: None,
        done: Callable[[Group], None] = lambda _: None,
    ) -> None:
        """Push all micro-batches through a loaded layer.

        `observe` gives each group its observer; `done` is called when the group is through; both
        in this thread, in the order of the groups. When an unmasked token becomes NaN or infinite:
        NumericError, or with `skip_bad` the token is masked, and its group is run again without it
        (with a new observer).
        """
        left = iter(enumerate(self.groups))
        in_flight: deque[_Step] = deque()
        try:
            while True:
                for rank, group in islice(left, GROUPS_IN_FLIGHT - len(in_flight)):
                    in_flight.append(self._begin(module, layer, rank, group, observe))
                if not in_flight:
                    return
                self._end(in_flight[0], module, layer, observe, done)
                in_flight.popleft()
        except BaseException as error:
            for step in in_flight:
                step.experts.abort(error)
            raise

    def _begin(
        self,
        module: nn.Module,
        layer: int,
        rank: int,
        group: Group,
        observe: Callable[[Group], ExpertObserver | None],
    ) -> _Step:
        experts = ExpertBatch(rank, len(group), self._slots, observe(group))

        def work(number: int, batch: MicroBatch) -> tuple[Tensor, Tensor]:
            with experts.join(number), torch.inference_mode():
                call = self._calls.of(batch, layer)
                output = module(self._hidden[batch.index], *call.args, **call.kwargs)
                output = output[0] if isinstance(output, tuple) else output
                broken = ~torch.isfinite(output.sum(-1))
                if not self.skip_bad:
                    # Nothing will be done again: no need to hold the old states and the new.
                    self._hidden[batch.index].copy_(output)
                    output = self._hidden[batch.index]
            return output, broken

        outputs = [self._members.submit(work, *entry) for entry in enumerate(group)]
        return _Step(rank, group, experts, outputs)

    def _end(
        self,
        step: _Step,
        module: nn.Module,
        layer: int,
        observe: Callable[[Group], ExpertObserver | None],
        done: Callable[[Group], None],
    ) -> None:
        """Wait for a group, call `done`, and handle tokens that became NaN or infinite."""
        results = _wait_for(step)
        bad = [
            broken & self._masks[batch.index]
            for batch, (_, broken) in zip(step.group, results, strict=True)
        ]
        if self.skip_bad:
            found = [broken for _, broken in results]
            if any(bool(one.any()) for one in bad):
                for batch, one in zip(step.group, bad, strict=True):
                    self._masks[batch.index] &= ~one
                    self.skipped += int(one.sum())
                results = _wait_for(self._begin(module, layer, step.rank, step.group, observe))
            for batch, (output, _), broken in zip(step.group, results, found, strict=True):
                self._hidden[batch.index].copy_(output.masked_fill(broken.unsqueeze(-1), 0.0))
        done(step.group)
        for batch, one in zip(step.group, bad, strict=True):
            if not self.skip_bad and bool(one.any()):
                raise _bad_token(batch, layer, one)

    def logits(self, batch: MicroBatch, where: Tensor) -> Tensor:
        """float32 [n, V]: logits at the flattened positions `where` (int64 [n]) of a micro-batch.

        Call inside `load_head()`. The model's own forward applies the final norm and soft-cap.
        """
        hidden = self._hidden[batch.index].reshape(-1, self._hidden[batch.index].shape[-1])
        with torch.inference_mode():
            result = self.model(inputs_embeds=hidden[where].unsqueeze(0), use_cache=False)
        return result.logits[0].float()  # type: ignore[no-any-return]

    @contextmanager
    def load_head(self) -> Iterator[None]:
        """Load the output head (the embedding, when tied) in its own type, for `logits`; call it
        after the last layer."""
        names = set(self._source.names())
        own = "lm_head.weight"
        running = own if own in names else self._find_embedding() + ".weight"
        weight = self._source.tensor(running)
        with load_output_head(self.model, running, weight), replace_layers(self.model, []):
            yield

    def map(self, work: Callable[[MicroBatch], Any]) -> Iterator[Any]:
        """Run `work` on all micro-batches in the workers; results in order."""
        return self._pool.map(work, self.batches)

    def _name_outside_layers(self) -> dict[str, str]:
        """All small parameters outside the decoder layers: final norm and the like."""
        layers = find_path(self.model, get_decoder_layers(self.model))
        skip = (layers + ".", self._find_embedding() + ".", "lm_head.")
        return {n: n for n in self.model.state_dict() if not n.startswith(skip)}

    def _find_embedding(self) -> str:
        return find_path(self.model, self.model.get_input_embeddings())

    def _embed(self) -> list[Tensor]:
        """Run the embedding module on just the rows that occur."""
        used = torch.unique(torch.cat([batch.input_ids.reshape(-1) for batch in self.batches]))
        module = self.model.get_input_embeddings()
        table = self._source.tensor(self._find_embedding() + ".weight")
        shell = module.weight
        try:
            module.weight = nn.Parameter(table[used].float(), requires_grad=False)
            del table
            width = module.weight.shape[-1]
            states = self._allocate_states(
                [(*batch.input_ids.shape, width) for batch in self.batches]
            )
            padding, module.padding_idx = module.padding_idx, None
            with torch.inference_mode():
                for state, batch in zip(states, self.batches, strict=True):
                    state.copy_(module(torch.searchsorted(used, batch.input_ids)))
            module.padding_idx = padding
        finally:
            module.weight = shell
        return states

    def _allocate_states(self, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        sizes = [int(torch.Size(shape).numel()) for shape in shapes]
        if 4 * sum(sizes) <= self._hidden_limit:
            return [torch.empty(shape) for shape in shapes]
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="secateur-hidden-"))
        flat = torch.from_file(
            f"{folder}/states", shared=True, size=sum(sizes), dtype=torch.float32
        )
        parts = torch.split(flat, sizes)
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _wait_for(step: _Step) -> list[tuple[Tensor, Tensor]]:
    try:
        return [future.result() for future in step.done]
    except BaseException as error:
        step.experts.abort(error)
        # A member that waited for one that failed has that one's error as its cause.
        reason = error.__cause__ if isinstance(error, Aborted) else error
        raise reason or error from None


def _bad_token(batch: MicroBatch, layer: int, bad: Tensor) -> NumericError:
    number = int(bad.any(-1).nonzero()[0])
    line = batch.lines[number]
    return NumericError(
        f"layer {layer} gave NaN or infinity for row {line.row}, token "
        f"{line.start + int(bad[number].nonzero()[0])}: "
        "the checkpoint's weights or this row are damaged"
    )
