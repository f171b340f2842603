"""The streamed forward: all micro-batches through one layer, then the next layer's weights.

The model's own forward runs once per micro-batch with every decoder layer replaced by a recorder
that keeps the call's arguments (masks, rotary tables, positions); then each layer is loaded,
called with them on all micro-batches, and freed. Large stacks of experts stay in their file, where
each group of micro-batches, which meet in them (forward.meeting), maps a matrix at a time. Peak
memory: the layer without those, one matrix of an expert per thread that computes, the hidden
states (in a mapped file beyond `hidden_limit`), one micro-batch per such thread, and what a layer
holds of the others of UNDERWAY groups while they wait: some five times their hidden states.

Every thread computes with a single torch thread, and groups do not depend on the threads, so the
bits do not either.
"""

from __future__ import annotations

import ctypes
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.errors import NumericError
from secateur.forward.batches import Group, MicroBatch, groups
from secateur.forward.expert_batch import Abandoned, Desks, Meeting
from secateur.forward.experts import Watcher
from secateur.forward.norms import in_one_pass
from secateur.forward.skeleton import build_skeleton, decoder_layers, filled, layer_names, path_of
from secateur.forward.weights import WeightSource

HIDDEN_LIMIT = 2 << 30
"""Bytes of hidden states kept in memory; more go to a mapped file."""
CALLS_LIMIT = 256 << 20
"""Bytes of recorded masks kept; beyond it they are recorded again for each layer."""
LARGE_BLOCK = 8 << 20
"""Bytes from which on a block of memory goes back to the system as soon as it is freed."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""glibc's numbers (malloc.h)."""
UNDERWAY = 3
"""Groups begun at a time: at the end of one, desks that it leaves empty serve the next."""


class LayerCall(NamedTuple):
    """What the model's forward passes to a decoder layer besides the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Step(NamedTuple):
    """A group on its way through a layer."""

    rank: int
    group: Group
    meeting: Meeting
    done: list[Future[tuple[Tensor, Tensor]]]
    """per micro-batch: its output, and which of its tokens are broken"""


class _Recorder(nn.Module):
    """Stands in for a decoder layer: notes the call, passes the hidden states through."""

    def __init__(self, layer: nn.Module, calls: list[LayerCall]) -> None:
        super().__init__()
        # A plain list hides the layer from torch: it must not appear as a sub-module.
        self._stands_for = [layer]
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._stands_for[0], name)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._calls.append(LayerCall(args, kwargs))
        return hidden_states


class ForwardPass:
    """One pass of micro-batches through a model, layer by layer.

    Use as a context manager: it embeds on entering; then run layers 0, 1, ..., each inside
    `loaded`, then ask for `logits` inside `head`. Layers may be skipped only by not calling the
    rest. `workers` are the cores to keep busy: half as many threads again compute, since one that
    waits for Python's lock leaves its core to another.
    """

    def __init__(
        self,
        source: WeightSource,
        batches: Sequence[MicroBatch],
        *,
        workers: int,
        hidden_limit: int = HIDDEN_LIMIT,
        skip_bad: bool = False,
    ) -> None:
        self.model = build_skeleton(source)
        self.batches = batches
        self.groups = groups(batches)
        self.family = source.family
        self.config = source.config
        self.skipped = 0
        self.skip_bad = skip_bad
        self._counted = [batch.counted.clone() for batch in batches]
        self._source = source
        self.workers = max(1, workers)
        self._hidden_limit = hidden_limit
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._calls: list[list[LayerCall] | None] = []
        self._hidden: list[Tensor] = []

    def __enter__(self) -> ForwardPass:
        _map_large_blocks()
        threads = torch.get_num_threads()
        self._stack.callback(torch.set_num_threads, threads)
        # In this thread too: a team of torch threads would spin on cores that the workers need.
        torch.set_num_threads(1)

        def pool(threads: int) -> ThreadPoolExecutor:
            return self._stack.enter_context(
                ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
            )

        self._pool = pool(self.workers)
        # A thread for every micro-batch that may wait for others; desks limit who computes.
        self._members = pool(UNDERWAY * max(map(len, self.groups), default=1))
        self._desks = Desks(self.workers + self.workers // 2)
        self._stack.enter_context(filled(self.model, self._outside(), self._source))
        self._hidden = self._embed()
        self._record()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            # Else the pool would finish every queued micro-batch before it lets the error out.
            self._pool.shutdown(cancel_futures=True)
            self._members.shutdown(cancel_futures=True)
        self._hidden = []
        self._calls = []
        self._stack.close()

    def hidden(self, batch: MicroBatch) -> Tensor:
        """float32 [B, L, H]: the hidden states of a micro-batch before the next layer."""
        return self._hidden[batch.index]

    def counted(self, batch: MicroBatch) -> Tensor:
        """bool [B, L]: the tokens of a micro-batch that (still) count."""
        return self._counted[batch.index]

    @contextmanager
    def loaded(self, layer: int) -> Iterator[nn.Module]:
        """The decoder layer `layer` with its weights."""
        module = decoder_layers(self.model)[layer]
        with filled(module, layer_names(self.model, layer), self._source), in_one_pass(module):
            yield module

    def run(
        self,
        module: nn.Module,
        layer: int,
        watch: Callable[[Group], Watcher | None] = lambda _: None,
        done: Callable[[Group], None] = lambda _: None,
    ) -> None:
        """Push all micro-batches through a loaded layer.

        `watch` gives each group its watcher; `done` is called when the group is through; both in
        this thread, in the order of the groups. When a token that counts becomes NaN or
        infinite: NumericError, or with `skip_bad` it stops counting, and its group is done again
        without it (with a new watcher).
        """
        left = iter(enumerate(self.groups))
        underway: deque[_Step] = deque()
        try:
            while True:
                for rank, group in islice(left, UNDERWAY - len(underway)):
                    underway.append(self._begin(module, layer, rank, group, watch))
                if not underway:
                    return
                self._end(underway[0], module, layer, watch, done)
                underway.popleft()
        except BaseException as error:
            for step in underway:
                step.meeting.break_up(error)
            raise

    def _begin(
        self,
        module: nn.Module,
        layer: int,
        rank: int,
        group: Group,
        watch: Callable[[Group], Watcher | None],
    ) -> _Step:
        meeting = Meeting(rank, len(group), self._desks, watch(group))

        def work(number: int, batch: MicroBatch) -> tuple[Tensor, Tensor]:
            with meeting.seated(number), torch.inference_mode():
                call = self._call(batch, layer)
                output = module(self._hidden[batch.index], *call.args, **call.kwargs)
                output = output[0] if isinstance(output, tuple) else output
                broken = ~torch.isfinite(output.sum(-1))
                if not self.skip_bad:
                    # Nothing will be done again: no need to hold the old states and the new.
                    self._hidden[batch.index].copy_(output)
                    output = self._hidden[batch.index]
            return output, broken

        done = [self._members.submit(work, *entry) for entry in enumerate(group)]
        return _Step(rank, group, meeting, done)

    def _end(
        self,
        step: _Step,
        module: nn.Module,
        layer: int,
        watch: Callable[[Group], Watcher | None],
        done: Callable[[Group], None],
    ) -> None:
        """Wait for a group, tell `done`, and see to tokens that became NaN or infinite."""
        results = _results(step)
        bad = [
            broken & self._counted[batch.index]
            for batch, (_, broken) in zip(step.group, results, strict=True)
        ]
        if self.skip_bad:
            found = [broken for _, broken in results]
            if any(bool(one.any()) for one in bad):
                for batch, one in zip(step.group, bad, strict=True):
                    self._counted[batch.index] &= ~one
                    self.skipped += int(one.sum())
                results = _results(self._begin(module, layer, step.rank, step.group, watch))
            for batch, (output, _), broken in zip(step.group, results, found, strict=True):
                self._hidden[batch.index].copy_(output.masked_fill(broken.unsqueeze(-1), 0.0))
        done(step.group)
        for batch, one in zip(step.group, bad, strict=True):
            if not self.skip_bad and bool(one.any()):
                raise _bad_token(batch, layer, one)

    def logits(self, batch: MicroBatch, where: Tensor) -> Tensor:
        """float32 [n, V]: logits at the flattened positions `where` (int64 [n]) of a micro-batch.

        Call inside `head()`. The model's own forward applies the final norm and soft-cap.
        """
        hidden = self._hidden[batch.index].reshape(-1, self._hidden[batch.index].shape[-1])
        with torch.inference_mode():
            result = self.model(inputs_embeds=hidden[where].unsqueeze(0), use_cache=False)
        return result.logits[0].float()  # type: ignore[no-any-return]

    @contextmanager
    def head(self) -> Iterator[None]:
        """Load the output head (the embedding, when tied); the layers are done with."""
        names = set(self._source.names())
        own = "lm_head.weight"
        running = own if own in names else self._embedding_path() + ".weight"
        with filled(self.model, {own: running}, self._source), _layers_are(self.model, []):
            yield

    def map(self, work: Callable[[MicroBatch], Any]) -> Iterator[Any]:
        """Run `work` on all micro-batches in the workers; results in order."""
        return self._pool.map(work, self.batches)

    def _outside(self) -> dict[str, str]:
        """All small parameters outside the decoder layers: final norm and the like."""
        layers = path_of(self.model, decoder_layers(self.model))
        skip = (layers + ".", self._embedding_path() + ".", "lm_head.")
        return {n: n for n in self.model.state_dict() if not n.startswith(skip)}

    def _embedding_path(self) -> str:
        return path_of(self.model, self.model.get_input_embeddings())

    def _embed(self) -> list[Tensor]:
        """Run the embedding module on just the rows that occur."""
        used = torch.unique(torch.cat([batch.input_ids.reshape(-1) for batch in self.batches]))
        module = self.model.get_input_embeddings()
        table = self._source.tensor(self._embedding_path() + ".weight")
        shell = module.weight
        try:
            module.weight = nn.Parameter(table[used].float(), requires_grad=False)
            del table
            width = module.weight.shape[-1]
            states = self._states([(*batch.input_ids.shape, width) for batch in self.batches])
            padding, module.padding_idx = module.padding_idx, None
            with torch.inference_mode():
                for state, batch in zip(states, self.batches, strict=True):
                    state.copy_(module(torch.searchsorted(used, batch.input_ids)))
            module.padding_idx = padding
        finally:
            module.weight = shell
        return states

    def _states(self, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        sizes = [int(torch.Size(shape).numel()) for shape in shapes]
        if 4 * sum(sizes) <= self._hidden_limit:
            return [torch.empty(shape) for shape in shapes]
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="secateur-hidden-"))
        flat = torch.from_file(
            f"{folder}/states", shared=True, size=sum(sizes), dtype=torch.float32
        )
        parts = torch.split(flat, sizes)
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def _record(self) -> None:
        held = 0
        self._calls = []
        for batch in self.batches:
            if held > CALLS_LIMIT:
                self._calls.append(None)
                continue
            calls = self._recorded(batch)
            held += sum(_nbytes(call) for call in calls) // max(1, len(calls)) * 2
            self._calls.append(calls)

    def _call(self, batch: MicroBatch, layer: int) -> LayerCall:
        calls = self._calls[batch.index]
        return (calls if calls is not None else self._recorded(batch))[layer]

    def _recorded(self, batch: MicroBatch) -> list[LayerCall]:
        calls: list[LayerCall] = []
        layers = decoder_layers(self.model)
        recorders = [_Recorder(layer, calls) for layer in layers]
        # The lock: workers may record at the same time, and the layers belong to the model.
        with self._lock, torch.inference_mode(), _layers_are(self.model, recorders):
            self.model.base_model(
                inputs_embeds=self._hidden[batch.index],
                position_ids=batch.positions,
                attention_mask=batch.counted if batch.holes else None,
                use_cache=False,
            )
        return calls


def _map_large_blocks() -> None:
    """Let glibc map every block of LARGE_BLOCK and more by itself, and unmap it when it is freed.

    Left alone it soon takes blocks of up to 32 MiB from its threads' heaps, and holes stay in
    them: at 26B size a gigabyte that nobody uses. For the rest of the process.
    """
    with suppress(AttributeError, OSError, TypeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(_M_MMAP_THRESHOLD, LARGE_BLOCK)
        # Setting one ends the growing of the other: at its first value smaller blocks would go
        # back and forth as well.
        set_option(_M_TRIM_THRESHOLD, 4 * LARGE_BLOCK)


def _results(step: _Step) -> list[tuple[Tensor, Tensor]]:
    try:
        return [future.result() for future in step.done]
    except BaseException as error:
        step.meeting.break_up(error)
        # Who waited for another member that failed knows the reason.
        reason = error.__cause__ if isinstance(error, Abandoned) else error
        raise reason or error from None


def _bad_token(batch: MicroBatch, layer: int, bad: Tensor) -> NumericError:
    number = int(bad.any(-1).nonzero()[0])
    line = batch.lines[number]
    return NumericError(
        f"layer {layer} gave NaN or infinity for row {line.row}, token "
        f"{line.start + int(bad[number].nonzero()[0])}: "
        "the checkpoint's weights or this row are damaged"
    )


@contextmanager
def _layers_are(model: Any, stand_ins: Sequence[nn.Module]) -> Iterator[None]:
    """Replace the decoder layers for a while."""
    base = model.base_model
    layers = base.layers
    base.layers = nn.ModuleList(stand_ins)
    try:
        yield
    finally:
        base.layers = layers


def _nbytes(call: LayerCall) -> int:
    tensors = [value for value in (*call.args, *call.kwargs.values()) if isinstance(value, Tensor)]
    return sum(tensor.nbytes for tensor in tensors)
