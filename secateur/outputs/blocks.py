"""Blocks of rows on their way from the shards to an encoder: which, read how, in which order."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint.byte_ranges import Piece, SlicedTensor
from secateur.checkpoint.nonfinite import refuse_forbidden
from secateur.checkpoint.tensors import STORAGE, NamedTensor, to_float32
from secateur.errors import CheckpointError
from secateur.formats.gguf.container import TensorInfo
from secateur.formats.gguf.padding import padded_entry, padded_rows
from secateur.formats.gguf.tensors import GgufTensor
from secateur.formats.imatrix.matrix import Imatrix

ELEMENTS = 1 << 19
"""Elements of a block, or one row: 1 MiB in 16 bits, 2 MiB as float32, so that a processor's
cache holds it from reading to encoding."""

IN_FLIGHT = 4
"""Blocks for every thread that are being encoded or wait for their turn to be written."""

_AHEAD = 64
"""Blocks that the disk is asked for before they are read."""

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Block:
    """Rows `start:stop` of a source seen as [rows, width], or numbers made from the config.

    `tensor` is the number of the output tensor and `name` its name. With `order`, as many rows are
    taken, but those and in that order. `below` rows of zeros follow, and `right` zeros end every
    row; `weights` [width + right] is the importance of its columns. With several `colours` the
    numbers of a row are those of each in turn, and come out as one colour after the other.
    """

    tensor: int
    name: str
    start: int
    stop: int
    width: int
    source: SlicedTensor | NDArray[np.float32]
    weights: NDArray[np.float32] | None
    below: int = 0
    right: int = 0
    order: NDArray[np.intp] | None = None
    colours: int = 1

    def runs(self) -> list[tuple[int, int]]:
        """Its rows of the source as (first, end) of neighbours, ascending."""
        if self.order is None:
            return [(self.start, self.stop)]
        rows = np.sort(self.order)
        ends = np.flatnonzero(np.diff(rows) != 1) + 1
        return [(int(run[0]), int(run[-1]) + 1) for run in np.split(rows, ends)]

    def arranged(self, rows: NDArray[np.generic]) -> NDArray[np.generic]:
        """The rows of its runs, one after the other, in the order asked for."""
        return rows if self.order is None else rows[np.argsort(np.argsort(self.order))]


def blocks_of(
    tensors: Sequence[GgufTensor],
    infos: Sequence[TensorInfo],
    sliced: Mapping[str, SlicedTensor],
    numbers: Iterable[int],
    imatrix: Imatrix | None,
) -> Iterator[Block]:
    """The blocks of the tensors called for by `numbers`, matrix by matrix, in row order."""
    for number in numbers:
        tensor, info = tensors[number], infos[number]
        zeros, view = tensor.padding, tensor.view
        importance = _importance(imatrix, info.name, zeros.right)
        width = tensor.columns
        shape = tensor.matrix
        rows = (shape[-2] if len(shape) > 1 else 1) - zeros.parts * zeros.below
        part = rows // zeros.parts
        step = max(1, ELEMENTS // shape[-1])
        matrix = 0
        sources = [sliced[name] for name in tensor.sources]
        for source in sources if tensor.values is None else [tensor.values]:
            for matrix_start in range(0, math.prod(source.shape) // width, rows * view.parts):
                first = matrix_start + view.part * rows
                weights = None
                if importance is not None:
                    weights = importance[matrix if len(importance) > 1 else 0]
                for begin in range(first, first + rows, part):
                    for start in range(begin, begin + part, step):
                        stop = min(start + step, begin + part)
                        below = zeros.below if stop == begin + part else 0
                        order = view.order(start - first, stop - first)
                        yield Block(
                            number, info.name, start, stop, width, source, weights, below,
                            zeros.right, None if order is None else order + first,
                            tensor.colours,
                        )  # fmt: skip
                matrix += 1


def _importance(imatrix: Imatrix | None, name: str, right: int) -> NDArray[np.float32] | None:
    """Weights of a tensor's columns, [matrices, width + right]; None where none are known."""
    entry = None if imatrix is None else imatrix.entries.get(name)
    return None if entry is None else padded_entry(entry, right).means()


class Shards:
    """The shards that tensors lie in, opened once, read by any thread."""

    def __init__(self, tensors: Iterable[SlicedTensor]) -> None:
        paths = {piece.path for tensor in tensors for piece in tensor.pieces}
        self._descriptors: dict[Path, int] = {}
        with ExitStack() as stack:
            for path in sorted(paths):
                try:
                    file = stack.enter_context(path.open("rb", buffering=0))
                except OSError as error:
                    raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
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

    def ahead(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The same blocks, the disk asked for each before it is needed."""
        coming: deque[Block] = deque()
        for block in blocks:
            self._ask_for(block)
            coming.append(block)
            if len(coming) > _AHEAD:
                yield coming.popleft()
        yield from coming

    def rows(self, block: Block) -> NDArray[np.float32]:
        """The block's numbers and zeros, float32 [stop - start + below, width + right].

        Raises CheckpointError for a shard that cannot be read or was cut, and for NaN or infinity
        (which clipping bounds may be).
        """
        if not isinstance(block.source, SlicedTensor):
            values = block.source.reshape(-1, block.width)[block.start : block.stop]
            return np.ascontiguousarray(values)
        name, dtype = block.source.name, block.source.dtype
        raw = memoryview(bytearray((block.stop - block.start) * _row_bytes(block)))
        filled = 0
        for start, stop in block.runs():
            begin = filled
            for piece in _pieces(block, start, stop):
                filled += self._read(piece, raw[filled : filled + piece.nbytes], name)
            refuse_forbidden(
                name, dtype, raw[begin:filled], block.source.allowed, start * block.width
            )
        array = block.arranged(np.frombuffer(raw, STORAGE[dtype]).reshape(-1, block.width))
        numbers = to_float32(NamedTensor(name, dtype, array))
        if block.colours > 1:
            numbers = numbers.reshape(len(numbers), -1, block.colours).swapaxes(1, 2)
        values = np.ascontiguousarray(numbers).reshape(-1, block.width)
        return padded_rows(values, block.below, block.right)

    def _ask_for(self, block: Block) -> None:
        if hasattr(os, "posix_fadvise") and isinstance(block.source, SlicedTensor):
            for start, stop in block.runs():
                for piece in _pieces(block, start, stop):
                    os.posix_fadvise(
                        self._descriptors[piece.path],
                        piece.offset,
                        piece.nbytes,
                        os.POSIX_FADV_WILLNEED,
                    )

    def _read(self, piece: Piece, into: memoryview, name: str) -> int:
        """Fill `into` from the piece's file."""
        done = 0
        while done < piece.nbytes:
            try:
                got = os.preadv(self._descriptors[piece.path], [into[done:]], piece.offset + done)
            except OSError as error:
                raise CheckpointError(
                    f"cannot read tensor {name!r} from {piece.path}: {error.strerror}"
                ) from None
            if not got:
                raise CheckpointError(
                    f"{piece.path} ends inside tensor {name!r}: it was changed or truncated "
                    "after it was opened"
                )
            done += got
        return done


def in_order(
    work: Callable[[Block], Made], blocks: Iterable[Block], workers: int
) -> Iterator[tuple[Block, Made]]:
    """(block, work(block)), in the order of the blocks, worked on by `workers` threads.

    At most IN_FLIGHT results for every thread wait. What `work` raises is raised here.
    """
    waiting: deque[tuple[Block, Future[Made]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="encode") as pool:
        try:
            for block in blocks:
                waiting.append((block, pool.submit(work, block)))
                if len(waiting) >= IN_FLIGHT * workers:
                    first, made = waiting.popleft()
                    yield first, made.result()
            while waiting:
                first, made = waiting.popleft()
                yield first, made.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _row_bytes(block: Block) -> int:
    assert isinstance(block.source, SlicedTensor)
    return STORAGE[block.source.dtype].itemsize * block.width


def _pieces(block: Block, first: int, end: int) -> Iterator[Piece]:
    """Where the bytes of the rows `first:end` of the block's source lie, in order."""
    assert isinstance(block.source, SlicedTensor)
    start, stop = (row * _row_bytes(block) for row in (first, end))
    position = 0
    for piece in block.source.pieces:
        begin, end = max(start, position), min(stop, position + piece.nbytes)
        if begin < end:
            yield Piece(piece.path, piece.offset + begin - position, end - begin)
        position += piece.nbytes
