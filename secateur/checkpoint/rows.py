"""The one source of tensor rows: every output format reads the weights it writes through this.

Shards are opened once and read by any thread, the disk asked early for what comes next. Bytes are
given as they are stored (`read`), or as rows of float32 (`rows`). An edit of weights is a step in
between, rows in and rows out, so that all formats hold the same edited weights. What no edit
touches is copied bit by bit and never becomes a float.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint.byte_ranges import Piece, SlicedTensor
from secateur.checkpoint.nonfinite import refuse_forbidden
from secateur.checkpoint.tensors import STORAGE, NamedTensor, from_float32, to_float32
from secateur.errors import CheckpointError, ReadError

AHEAD = 64 << 20
"""Bytes that the disk is asked for before they are read: between kept experts lie gaps, at each
of which the system's own reading ahead would start anew."""

Item = TypeVar("Item")


class RowEdit(Protocol):
    """A named change of weights. It sees rows, and must not depend on how many at a time."""

    @property
    def name(self) -> str:
        """What a plan calls it."""

    def touches(self, tensor: str) -> bool:
        """Whether it changes the tensor of this name."""

    def edit(
        self, tensor: SlicedTensor, first: int, rows: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """The edited rows, of the same shape. `rows` [R, C] are the tensor's, seen as [all, C],
        from `first` on; with selected experts, those that are kept."""


class RowSource:
    """The shards that some tensors lie in, and the edits that are made on the way.

    Raises CheckpointError for a shard that cannot be opened. Memory: what is asked for.
    """

    def __init__(self, tensors: Iterable[SlicedTensor], edits: Sequence[RowEdit] = ()) -> None:
        self._edits = tuple(edits)
        self._descriptors: dict[Path, int] = {}
        with ExitStack() as stack:
            for path in sorted({piece.path for tensor in tensors for piece in tensor.pieces}):
                try:
                    file = stack.enter_context(path.open("rb", buffering=0))
                except OSError as error:
                    raise ReadError(f"cannot read {path}: {error.strerror}") from None
                self._descriptors[path] = file.fileno()
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def edits_of(self, tensor: SlicedTensor) -> tuple[RowEdit, ...]:
        """The edits that change a tensor, in order; none: its bytes may be copied."""
        return tuple(edit for edit in self._edits if edit.touches(tensor.name))

    def ahead(
        self, items: Iterable[Item], pieces_of: Callable[[Item], Sequence[Piece]]
    ) -> Iterator[Item]:
        """The same items, the disk asked for the pieces of each before it is needed."""
        coming: deque[tuple[Item, int]] = deque()
        asked = 0
        for item in items:
            pieces = pieces_of(item)
            for piece in pieces:
                self._ask_for(piece)
            nbytes = sum(piece.nbytes for piece in pieces)
            coming.append((item, nbytes))
            asked += nbytes
            while asked > AHEAD:
                first, nbytes = coming.popleft()
                asked -= nbytes
                yield first
        for item, _ in coming:
            yield item

    def read(self, piece: Piece, into: memoryview, name: str) -> None:
        """Fill `into` with the bytes of a piece. Raises CheckpointError, naming the tensor."""
        done = 0
        while done < piece.nbytes:
            try:
                got = os.preadv(self._descriptors[piece.path], [into[done:]], piece.offset + done)
            except OSError as error:
                raise ReadError(
                    f"cannot read tensor {name!r} from {piece.path}: {error.strerror}"
                ) from None
            if not got:
                raise CheckpointError(
                    f"{piece.path} ends at byte {piece.offset + done}, inside tensor {name!r}: "
                    "it was changed or truncated after it was opened"
                )
            done += got

    def rows(
        self, tensor: SlicedTensor, width: int, runs: Sequence[tuple[int, int]]
    ) -> NDArray[np.float32]:
        """Rows of a tensor seen as [all, width], edited: those of the runs, one after the other.

        A run is (first, end). Raises CheckpointError for a shard that cannot be read or was cut,
        and for NaN or infinity where the tensor does not allow them.
        """
        row_bytes = STORAGE[tensor.dtype].itemsize * width
        found = []
        raw = memoryview(bytearray(sum(end - first for first, end in runs) * row_bytes))
        filled = 0
        for first, end in runs:
            begin = filled
            for piece in pieces_between(tensor, first * row_bytes, end * row_bytes):
                self.read(piece, raw[filled : filled + piece.nbytes], tensor.name)
                filled += piece.nbytes
            refuse_forbidden(
                tensor.name, tensor.dtype, raw[begin:filled], tensor.allowed, first * width
            )
        array = np.frombuffer(raw, STORAGE[tensor.dtype]).reshape(-1, width)
        numbers = to_float32(NamedTensor(tensor.name, tensor.dtype, array))
        if not (edits := self.edits_of(tensor)):
            return numbers
        done = 0
        for first, end in runs:
            part = numbers[done : done + end - first]
            for edit in edits:
                part = edit.edit(tensor, first, part)
            found.append(part)
            done += end - first
        return np.concatenate(found)

    def edited_bytes(self, tensor: SlicedTensor, nbytes: int) -> Iterator[memoryview]:
        """All bytes of an edited tensor in its own type, whole rows of about `nbytes` at a time.

        Raises as `rows` does, and NumericError where an edited number does not fit the type.
        """
        width = tensor.shape[-1]
        step = max(1, nbytes // (STORAGE[tensor.dtype].itemsize * width))
        total = tensor.elements // width
        for first in range(0, total, step):
            rows = self.rows(tensor, width, [(first, min(first + step, total))])
            stored = np.ascontiguousarray(from_float32(rows, tensor.dtype))
            yield stored.reshape(-1).view(np.uint8).data

    def _ask_for(self, piece: Piece) -> None:
        if hasattr(os, "posix_fadvise"):  # macOS has none
            os.posix_fadvise(
                self._descriptors[piece.path], piece.offset, piece.nbytes, os.POSIX_FADV_WILLNEED
            )


def pieces_between(tensor: SlicedTensor, start: int, stop: int) -> Iterator[Piece]:
    """Where the bytes `start:stop` of a tensor lie, in order."""
    position = 0
    for piece in tensor.pieces:
        begin, end = max(start, position), min(stop, position + piece.nbytes)
        if begin < end:
            yield Piece(piece.path, piece.offset + begin - position, end - begin)
        position += piece.nbytes
