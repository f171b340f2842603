"""Weights on a device: read and copied while the layer before computes.

A tensor is read in pieces, which several threads copy from its file into page-locked memory and
from there, side by side with what computes, to the device. Elsewhere than on CUDA there is no such
memory, and tensors are moved when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import local
from typing import Any, NamedTuple

import torch
from torch import Tensor

from secateur.forward.weights import Stack, WeightSource, WrappedWeights

PIECE_BYTES = 16 << 20
"""Bytes that a thread copies at once; each thread has so much page-locked memory."""
READERS = 8
"""Threads that read: enough for the fastest disks."""


class _Coming(NamedTuple):
    """A tensor that is being copied; whole when all pieces are done and their events are past."""

    value: Tensor
    pieces: list[Future[Any]]


class DeviceWeights(WrappedWeights):
    """A source whose tensors are on `device`; see `open_on_device`.

    Stacks of experts stay in their own type (grouped_products widens them where products need it);
    all else becomes `dtype`, and what belongs to a router float32, so that rounding sends no token
    elsewhere. Memory on the device: what was asked for, and what was prefetched. What is in `kept`
    {name: tensor} is not read again, and what is read is put there.
    """

    def __init__(
        self,
        source: WeightSource,
        device: torch.device,
        dtype: torch.dtype,
        copier: _Copier | None,
        kept: dict[str, Tensor] | None = None,
    ) -> None:
        self.source = source
        self.device = device
        self._dtype = dtype
        self._copier = copier
        self._kept = kept
        self._coming: dict[str, _Coming] = {}
        layers = source.family.number(source.config, "layers")
        template = source.family.router.module
        self._routers = tuple(source.family.fill(template, layer) + "." for layer in range(layers))

    def tensor(self, name: str) -> Tensor:
        dtype = torch.float32 if name.startswith(self._routers) else self._dtype
        return self._take(name, self.source.tensor).to(dtype)

    def experts(self, name: str) -> Tensor:
        return self._take(name, self.source.experts)

    def prefetch(self, tensors: Sequence[str], stacks: Sequence[str]) -> None:
        """Begin to copy; nothing where the device has no room for it or cannot copy aside."""
        if self._copier is None:
            return
        opened: dict[str, Callable[[str], Stack | Tensor]] = {
            **dict.fromkeys(tensors, self.source.tensor),
            **dict.fromkeys(stacks, self.source.experts),
        }
        try:
            for name, read in opened.items():
                if name not in self._coming and name not in (self._kept or ()):
                    self._coming[name] = self._copier.begin(read(name))
        except torch.OutOfMemoryError:
            pass  # it is copied when it is asked for, and others are gone

    def _take(self, name: str, read: Callable[[str], Stack | Tensor]) -> Tensor:
        if self._kept is not None and name in self._kept:
            return self._kept[name]
        coming = self._coming.pop(name, None)
        if self._copier is None:
            value = _read_whole(read(name)).to(self.device)
        else:
            value = self._copier.finish(coming or self._copier.begin(read(name)))
        if self._kept is not None:
            self._kept[name] = value
        return value


@contextmanager
def open_on_device(
    source: WeightSource,
    device: torch.device,
    dtype: torch.dtype,
    workers: int,
    kept: dict[str, Tensor] | None = None,
) -> Iterator[DeviceWeights]:
    """A source with its tensors on a device, and threads that copy while the device computes;
    `kept` as in DeviceWeights."""
    if device.type != "cuda":
        yield DeviceWeights(source, device, dtype, None, kept)
        return
    with ThreadPoolExecutor(min(READERS, max(1, workers))) as pool:
        try:
            yield DeviceWeights(source, device, dtype, _Copier(device, pool), kept)
        finally:
            pool.shutdown(cancel_futures=True)


class _Copier:
    """Copies tensors to a CUDA device beside what computes there."""

    def __init__(self, device: torch.device, pool: ThreadPoolExecutor) -> None:
        self._device = device
        self._pool = pool
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._own = local()

    def begin(self, given: Stack | Tensor) -> _Coming:
        if isinstance(given, Tensor) and given.device == self._device:
            return _Coming(given, [])
        first = given if isinstance(given, Tensor) else given[0]
        with torch.cuda.stream(self._stream):
            value = torch.empty(tuple(given.shape), dtype=first.dtype, device=self._device)
        pieces = [self._pool.submit(self._copy, into, read) for into, read in _divide(value, given)]
        return _Coming(value, pieces)

    def finish(self, coming: _Coming) -> Tensor:
        for piece in coming.pieces:
            piece.result()
        if coming.pieces:
            # What computes waits for the copies, and its use is known to the allocator.
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            coming.value.record_stream(current)
        return coming.value

    def _copy(self, into: Tensor, read: Callable[[], Tensor]) -> None:
        """Copy a piece, of at most PIECE_BYTES, by way of this thread's page-locked memory."""
        if not hasattr(self._own, "buffer"):
            self._own.buffer = torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True)
            self._own.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            torch.set_num_threads(1)
        self._own.copied.synchronize()
        value = read()
        staged = self._own.buffer[: value.nbytes].view(value.dtype).view(value.shape)
        staged.copy_(value)
        with torch.cuda.stream(self._stream):
            into.copy_(staged, non_blocking=True)
            self._own.copied.record(self._stream)


def _divide(value: Tensor, given: Stack | Tensor) -> Iterator[tuple[Tensor, Callable[[], Tensor]]]:
    """Parts of the first axes of a tensor, of at most PIECE_BYTES: where each goes, and how it is
    read. A stack on disk is read a matrix at a time."""
    if isinstance(given, Tensor):
        for into, rows in _cut(value):
            yield into, partial(given.__getitem__, rows)
        return
    for number in range(len(value)):
        for into, rows in _cut(value[number]):
            yield into, partial(_read_part, given, number, rows)


def _read_part(stack: Stack, number: int, rows: Any) -> Tensor:
    return stack[number][rows]


def _cut(value: Tensor) -> Iterator[tuple[Tensor, Any]]:
    if value.nbytes <= PIECE_BYTES or not value.dim():
        yield value, ...
        return
    row = value.nbytes // len(value)
    if row > PIECE_BYTES:
        for number in range(len(value)):
            for into, rows in _cut(value[number]):
                yield into, (number, *(rows if isinstance(rows, tuple) else (rows,)))
        return
    step = max(1, PIECE_BYTES // row)
    for start in range(0, len(value), step):
        yield value[start : start + step], slice(start, start + step)


def _read_whole(given: Stack | Tensor) -> Tensor:
    if isinstance(given, Tensor):
        return given
    return torch.stack([given[number] for number in range(given.shape[0])])
