"""Writing safetensors shards: all sizes known before the first byte, then bytes at disk speed.

`lay_out` decides the shards and their exact headers from names, types and shapes; nothing is
read. `write_shards` then copies byte ranges. The same tensors give the same bytes, always.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_EXCEPTION,
    CancelledError,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Protocol, TypeVar

from secateur.checkpoint.byte_ranges import Piece, SlicedTensor
from secateur.checkpoint.headers import Described, header_bytes
from secateur.checkpoint.nonfinite import refuse_forbidden
from secateur.checkpoint.reader import INDEX, SINGLE
from secateur.checkpoint.rows import RowEdit, RowSource
from secateur.checkpoint.tensors import STORAGE
from secateur.errors import CheckpointError, WriteError
from secateur.system.atomic import write_bytes
from secateur.system.continued_file import ContinuedFile, unfinished
from secateur.system.progress import Counter, Progress, no_progress

SHARD_LIMIT = 5_000_000_000
"""Bytes of tensor data per shard; a larger tensor gets a shard of its own."""

_BUFFER = 1 << 19
"""Bytes per buffer: it stays in a core's cache from reading to writing, and is a multiple of
every element size, so that no element is cut in two."""

_BUFFERS = 4
"""One is being hashed while the others are filled and written, and wait for it."""

_AT_ONCE = 2
"""Shards written at a time: one core's sha256 is slower than a good disk."""

_PART = 1 << 24
"""Bytes that the disk is asked for at a time."""


@dataclass(frozen=True)
class Shard:
    """One file to write: its header, to the byte, and its tensors in the order of their data."""

    name: str
    header: bytes = field(repr=False)
    tensors: tuple[SlicedTensor, ...] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True)
class Layout:
    """The weight files of a checkpoint, decided. `index` is None for a single shard."""

    shards: tuple[Shard, ...]
    index: bytes | None = field(repr=False)

    @property
    def files(self) -> Mapping[str, int]:
        """Name -> exact bytes of every file that `write_shards` makes."""
        sizes = {shard.name: shard.nbytes for shard in self.shards}
        return sizes if self.index is None else {**sizes, INDEX: len(self.index)}

    @property
    def nbytes(self) -> int:
        """Bytes of all files together."""
        return sum(self.files.values())


def lay_out(tensors: Iterable[SlicedTensor], shard_limit: int = SHARD_LIMIT) -> Layout:
    """Decide the shards of a checkpoint. Reads nothing; memory is that of the descriptions.

    Shards are filled in the natural order of names, so that a layer's tensors lie together;
    within a shard wide types come first, which aligns every tensor to its element size.
    Raises CheckpointError when a name occurs twice or pieces do not add up to their tensor.
    """
    ordered = sorted(tensors, key=lambda tensor: natural_order(tensor.name))
    _check(ordered)
    shards = tuple(_shard(name, group) for name, group in group_shards(ordered, shard_limit))
    index = index_bytes([(shard.name, shard.tensors) for shard in shards])
    return Layout(shards, index if len(shards) > 1 else None)


class Sized(Protocol):
    """What has a size in bytes."""

    @property
    def nbytes(self) -> int: ...


T = TypeVar("T", bound=Sized)


def group_shards(tensors: Iterable[T], shard_limit: int = SHARD_LIMIT) -> list[tuple[str, list[T]]]:
    """(file name, tensors) of every shard: filled in the order given, up to `shard_limit` bytes.

    A larger tensor gets a shard of its own; a single shard has the name that needs no index.
    """
    groups: list[list[T]] = [[]]
    used = 0
    for tensor in tensors:
        if groups[-1] and used + tensor.nbytes > shard_limit:
            groups.append([])
            used = 0
        groups[-1].append(tensor)
        used += tensor.nbytes
    if len(groups) == 1:
        return [(SINGLE, groups[0])]
    return [
        (f"model-{number:05d}-of-{len(groups):05d}.safetensors", group)
        for number, group in enumerate(groups, start=1)
    ]


def write_shards(
    folder: Path,
    layout: Layout,
    progress: Progress = no_progress,
    edits: Sequence[RowEdit] = (),
    key: str | None = None,
) -> dict[str, str]:
    """Write the files of `layout` into `folder`; returns name -> sha256 (hex) of what was written.

    With a `key`, which tells whatever decides the bytes besides the headers, a shard that is there
    is left alone, and one that was interrupted goes on after its last whole tensor. Memory: eight
    buffers of 512 KiB. `progress` counts the bytes of tensors. Tensors that none of the `edits`
    touches are copied as they are.
    Refuses NaN and infinity where a tensor does not allow them (CheckpointError, as for a
    source that cannot be read); raises WriteError, before starting, when the disk has not
    enough room, and later when a write fails.
    """
    shards = tuple(s for s in layout.shards if key is None or not (folder / s.name).exists())
    places = [folder / shard.name for shard in layout.shards] if key is not None else []
    there = [path for place in places for path in (place, *unfinished(place)) if path.exists()]
    needed = layout.nbytes - sum(path.stat().st_size for path in there)
    room = shutil.disk_usage(folder).free
    if room < needed:
        raise WriteError(
            f"{folder} has {room} bytes free, but the output takes {needed}: "
            "make room or choose another disk"
        )
    total = sum(tensor.nbytes for shard in layout.shards for tensor in shard.tensors)
    count = Counter(progress, "write safetensors", total, "bytes")
    count(sum(t.nbytes for s in layout.shards if s not in shards for t in s.tensors))
    hashes = _write_all([_Work(folder, shard, edits, key) for shard in shards], count)
    if layout.index is not None:
        write_bytes(folder / INDEX, layout.index)
        hashes[INDEX] = hashlib.sha256(layout.index).hexdigest()
    return hashes


@dataclass(frozen=True)
class _Work:
    """A shard to write."""

    folder: Path
    shard: Shard
    edits: Sequence[RowEdit]
    key: str | None

    def open(self) -> ContinuedFile:
        """The file, where it was left."""
        if self.key is None:
            return ContinuedFile(self.folder / self.shard.name)
        decides = self.key.encode() + self.shard.header
        return ContinuedFile(self.folder / self.shard.name, hashlib.sha256(decides).hexdigest())


def _write_all(works: Sequence[_Work], count: Counter) -> dict[str, str]:
    """Shards side by side. When one fails, or the user interrupts, the others stop as well."""
    stop = Event()

    def advance(nbytes: int) -> None:
        if stop.is_set():
            raise CancelledError
        count(nbytes)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="shard") as pool:
        futures = [pool.submit(_write_shard, work, advance) for work in works]
        try:
            done = wait(futures, return_when=FIRST_EXCEPTION).done
            for future in done:
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return {w.shard.name: future.result() for w, future in zip(works, futures, strict=True)}


def _write_shard(work: _Work, advance: Callable[[int], None]) -> str:
    """One shard; a second thread hashes and a third flushes what is written so far.

    A buffer taken from `free` goes back once it is hashed; it is written by then, because only
    this thread takes buffers.
    """
    shard = work.shard
    free: SimpleQueue[memoryview] = SimpleQueue()
    for _ in range(_BUFFERS):
        free.put(memoryview(bytearray(_BUFFER)))

    with ExitStack() as stack:
        out = stack.enter_context(work.open())
        if not out.at:
            out.append(shard.header)
        first = out.done
        tensors = shard.tensors[first:]
        advance(sum(tensor.nbytes for tensor in shard.tensors[:first]))
        source = stack.enter_context(RowSource(tensors, work.edits))
        # Leaving the stack waits for the threads first, then closes the files.
        hasher = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="sha256"))
        noted: list[Future[None]] = []

        def take_in(buffer: memoryview, used: int) -> None:
            out.hash(buffer[:used])
            free.put(buffer)

        filled = _fill_buffers(tensors, free, source)
        for number, tensor in enumerate(tensors, start=first + 1):
            element, left = 0, tensor.nbytes
            while left:
                buffer, used = next(filled)
                block = buffer[:used]
                refuse_forbidden(tensor.name, tensor.dtype, block, tensor.allowed, element)
                element, left = element + used // STORAGE[tensor.dtype].itemsize, left - used
                out.write(block)
                hasher.submit(take_in, buffer, used)
                advance(used)
            for done in noted:
                done.result()  # a disk that refuses
            noted = [hasher.submit(out.note, number, out.at)]
        hasher.shutdown()
        for done in noted:
            done.result()
        return out.finish()


def _fill_buffers(
    tensors: Iterable[SlicedTensor], free: SimpleQueue[memoryview], source: RowSource
) -> Iterator[tuple[memoryview, int]]:
    """All bytes of the tensors as (buffer, bytes used), in buffers taken from `free`.

    A buffer holds whole elements of one tensor.
    """
    copied = ((t, part) for t in tensors if not source.edits_of(t) for part in _parts(t))
    parts = groupby(source.ahead(copied, lambda item: [item[1]]), key=lambda item: item[0])
    for tensor in tensors:
        if source.edits_of(tensor):
            for data in source.edited_bytes(tensor, _BUFFER):
                for start in range(0, len(data), _BUFFER):
                    buffer, part = free.get(), data[start : start + _BUFFER]
                    buffer[: len(part)] = part
                    yield buffer, len(part)
        elif tensor.nbytes:
            _, mine = next(parts)
            yield from _copy(tensor, (part for _, part in mine), free, source)


def _copy(
    tensor: SlicedTensor,
    parts: Iterable[Piece],
    free: SimpleQueue[memoryview],
    source: RowSource,
) -> Iterator[tuple[memoryview, int]]:
    """The bytes of a tensor's parts, as they are stored."""
    buffer, used = free.get(), 0
    for part in parts:
        done = 0
        while done < part.nbytes:
            if used == len(buffer):
                yield buffer, used
                buffer, used = free.get(), 0
            size = min(len(buffer) - used, part.nbytes - done)
            piece = Piece(part.path, part.offset + done, size)
            source.read(piece, buffer[used : used + size], tensor.name)
            done, used = done + size, used + size
    yield buffer, used


def _parts(tensor: SlicedTensor) -> Iterator[Piece]:
    """The tensor's pieces, cut so that the disk is asked for a few MiB at a time."""
    for piece in tensor.pieces:
        for start in range(0, piece.nbytes, _PART):
            nbytes = min(_PART, piece.nbytes - start)
            yield Piece(piece.path, piece.offset + start, nbytes)


def _shard(name: str, tensors: list[SlicedTensor]) -> Shard:
    # A stable sort keeps the natural order of names among types of one width.
    ordered = sorted(tensors, key=lambda tensor: -STORAGE[tensor.dtype].itemsize)
    return Shard(name, header_bytes(ordered, "pt"), tuple(ordered))


def index_bytes(shards: Sequence[tuple[str, Sequence[Described]]]) -> bytes:
    """The index of shards (file, its tensors), as transformers writes it: sorted, indented by two,
    a newline at the end."""
    index = {
        "metadata": {"total_size": sum(t.nbytes for _, tensors in shards for t in tensors)},
        "weight_map": {t.name: file for file, tensors in shards for t in tensors},
    }
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()


def _check(ordered: list[SlicedTensor]) -> None:
    for tensor, following in zip(ordered, [*ordered[1:], None], strict=True):
        if following is not None and tensor.name == following.name:
            raise CheckpointError(f"tensor {tensor.name!r} would be written twice")
        if (given := sum(piece.nbytes for piece in tensor.pieces)) != tensor.nbytes:
            raise CheckpointError(
                f"tensor {tensor.name!r} has pieces of {given} bytes, but {tensor.dtype} "
                f"{list(tensor.shape)} takes {tensor.nbytes}"
            )


def natural_order(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key in which layer 10 comes after layer 9."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts)
