"""What the model's own forward passes to its decoder layers, recorded without running them.

The family's code makes masks, rotary tables and positions for a micro-batch once, while every
decoder layer is replaced by a recorder; the layers are then called with them one at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.forward.batches import MicroBatch
from secateur.forward.skeleton import get_decoder_layers

CALLS_LIMIT = 256 << 20
"""Bytes of recorded masks and rotary tables kept; the calls of further micro-batches are recorded
again for each layer. Those of micro-batches of one shape, where they are equal, are kept once."""


class LayerCall(NamedTuple):
    """What the model's forward passes to a decoder layer in addition to the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class LayerCalls:
    """The calls of all decoder layers for each micro-batch. Peak memory: CALLS_LIMIT, and the
    calls of one micro-batch (per thread, where they are recorded again)."""

    def __init__(
        self,
        model: Any,
        batches: Sequence[MicroBatch],
        hidden: Sequence[Tensor],
        device: torch.device,
    ) -> None:
        """`hidden` are the hidden states of each micro-batch, [B, L, H]; recording reads their
        shape and type only. What the calls hold is on `device`."""
        self._model = model
        self._hidden = hidden
        self._device = device
        # Threads may record at the same time, and the layers belong to the model.
        self._lock = threading.Lock()
        self._kept: dict[int, list[LayerCall]] = {}
        self.held = 0
        """Bytes of the calls that are kept."""
        of_shape: dict[torch.Size, list[LayerCall]] = {}
        for batch in batches:
            if self.held > CALLS_LIMIT:
                break
            calls = self._record(batch)
            known = of_shape.setdefault(batch.input_ids.shape, calls)
            before = 0 if known is calls else _count_bytes(known)
            calls = self._kept[batch.index] = _share_tensors(calls, known)
            self.held += _count_bytes([*known, *calls]) - before

    def of(self, batch: MicroBatch, layer: int, device: torch.device | None = None) -> LayerCall:
        """How `layer` is called on a micro-batch, on the `device` that it is on (default: that of
        the recorded calls)."""
        call = (self._kept.get(batch.index) or self._record(batch))[layer]
        if device in (None, self._device):
            return call
        return LayerCall(*move_tensors(tuple(call), device))

    def _record(self, batch: MicroBatch) -> list[LayerCall]:
        calls: list[LayerCall] = []
        recorders = [_Recorder(layer, calls) for layer in get_decoder_layers(self._model)]
        with self._lock, torch.inference_mode(), replace_layers(self._model, recorders):
            self._model.base_model(
                inputs_embeds=self._hidden[batch.index].to(self._device),
                position_ids=batch.positions.to(self._device),
                attention_mask=batch.mask.to(self._device) if batch.needs_mask else None,
                use_cache=False,
            )
        return calls


class _Recorder(nn.Module):
    """Stands in for a decoder layer: records the call, passes the hidden states through."""

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


@contextmanager
def replace_layers(model: Any, stand_ins: Sequence[nn.Module]) -> Iterator[None]:
    """Replace the decoder layers of a model inside the block."""
    base = model.base_model
    layers = base.layers
    base.layers = nn.ModuleList(stand_ins)
    try:
        yield
    finally:
        base.layers = layers


def move_tensors(value: Any, device: torch.device | None) -> Any:
    """A value with all tensors in its tuples, lists and dictionaries on `device`."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {name: move_tensors(part, device) for name, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(move_tensors(part, device) for part in value)
    return value


def _share_tensors(calls: list[LayerCall], known: list[LayerCall]) -> list[LayerCall]:
    """The calls with the tensors of `known` where theirs are equal. What holds tensors stays apart,
    as layers may put others into it."""
    compared: dict[tuple[int, int], bool] = {}

    def share(mine: Any, other: Any) -> Any:
        if type(mine) is tuple and type(other) is tuple and len(mine) == len(other):
            return tuple(map(share, mine, other))
        if not isinstance(mine, Tensor) or not isinstance(other, Tensor):
            return mine
        pair = id(mine), id(other)  # layers are passed the same tensors
        if pair not in compared:
            compared[pair] = mine.dtype == other.dtype and torch.equal(mine, other)
        return other if compared[pair] else mine

    return [
        LayerCall(
            share(call.args, like.args),
            {name: share(value, like.kwargs.get(name)) for name, value in call.kwargs.items()},
        )
        for call, like in zip(calls, known, strict=True)
    ]


def _count_bytes(calls: Iterable[LayerCall]) -> int:
    """Bytes of memory that the calls of one micro-batch hold; what layers share counts once."""
    storages = [tensor.untyped_storage() for tensor in _find_tensors(calls)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _find_tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in tuples (as rotary tables are), lists and dictionaries, however deep."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _find_tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _find_tensors(part)
