"""The streamed forward: all micro-batches through one layer, then the next layer's weights.

The model's own forward runs once per micro-batch with every decoder layer replaced by a recorder
that keeps the call's arguments (masks, rotary tables, positions); then each layer is loaded,
called with them on all micro-batches, and freed. Weights are read once. Peak memory: one layer,
the hidden states (in a mapped file beyond `hidden_limit`), and one micro-batch per worker.

Each worker thread computes with a single torch thread, so a micro-batch gives the same bits
whatever the number of workers.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.errors import NumericError
from secateur.forward.batches import MicroBatch
from secateur.forward.experts import WATCHER, Watcher
from secateur.forward.skeleton import build_skeleton, decoder_layers, filled, layer_names, path_of
from secateur.forward.weights import WeightSource

HIDDEN_LIMIT = 2 << 30
"""Bytes of hidden states kept in memory; more go to a mapped file."""
CALLS_LIMIT = 256 << 20
"""Bytes of recorded masks kept; beyond it they are recorded again for each layer."""


class LayerCall(NamedTuple):
    """What the model's forward passes to a decoder layer besides the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


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

    Use as a context manager: `embed` on entering, then `layer(n)` for n = 0, 1, ..., then
    `logits`. Layers may be skipped only by not calling the rest.
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
        threads = torch.get_num_threads()
        self._stack.callback(torch.set_num_threads, threads)
        self._pool = self._stack.enter_context(
            ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(1,))
        )
        self._stack.enter_context(filled(self.model, self._outside(), self._source))
        self._hidden = self._embed()
        self._record()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            # Else the pool would finish every queued micro-batch before it lets the error out.
            self._pool.shutdown(cancel_futures=True)
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
        with filled(module, layer_names(self.model, layer), self._source):
            yield module

    def run(
        self,
        module: nn.Module,
        layer: int,
        watch: Callable[[MicroBatch], Watcher | None] = lambda _: None,
        done: Callable[[MicroBatch], None] = lambda _: None,
    ) -> None:
        """Push all micro-batches through a loaded layer.

        `watch` gives each micro-batch its watcher (called in the worker's thread); `done` is
        called in this thread, in the order of the micro-batches. When a token that counts
        becomes NaN or infinite: NumericError, or with `skip_bad` it stops counting, and the
        micro-batch is done again without it (with a new watcher).
        """

        def step(batch: MicroBatch) -> tuple[MicroBatch, Tensor]:
            output = self._output(module, batch, layer, watch(batch))
            broken = ~torch.isfinite(output.sum(-1))
            bad = broken & self._counted[batch.index]
            if self.skip_bad and bool(bad.any()):
                self._counted[batch.index] &= ~bad
                output = self._output(module, batch, layer, watch(batch))
                output = output.masked_fill(broken.unsqueeze(-1), 0.0)
            self._hidden[batch.index].copy_(output)
            return batch, bad

        for batch, bad in self._pool.map(step, self.batches):
            done(batch)
            if not bool(bad.any()):
                continue
            if not self.skip_bad:
                raise _bad_token(batch, layer, bad)
            self.skipped += int(bad.sum())

    def _output(
        self, module: nn.Module, batch: MicroBatch, layer: int, watcher: Watcher | None
    ) -> Tensor:
        token = WATCHER.set(watcher)
        try:
            with torch.inference_mode():
                call = self._call(batch, layer)
                output = module(self._hidden[batch.index], *call.args, **call.kwargs)
        finally:
            WATCHER.reset(token)
        return output[0] if isinstance(output, tuple) else output  # type: ignore[no-any-return]

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
