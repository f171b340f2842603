"""Blocks of rows on their way from the shards to an encoder: which, read how, in which order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint.byte_ranges import Piece, SlicedTensor
from secateur.checkpoint.rows import RowSource, pieces_between
from secateur.checkpoint.tensors import STORAGE
from secateur.formats.gguf.container import TensorInfo
from secateur.formats.gguf.padding import padded_entry, padded_rows
from secateur.formats.gguf.tensors import GgufTensor
from secateur.formats.imatrix.matrix import Imatrix
from secateur.outputs.feedback import FactorOf, Feedback
from secateur.rounding.grid import LANES

ELEMENTS = 1 << 19
"""Elements of a block, or one row: 1 MiB in 16 bits, 2 MiB as float32, so that a processor's
cache holds it from reading to encoding."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows `start:stop` of a source seen as [rows, width], or numbers made from the config.

    `tensor` is the number of the output tensor and `name` its name. With `order`, as many rows are
    taken, but those and in that order. `below` rows of zeros follow, and `right` zeros end every
    row; `weights` [width + right] is the importance of its columns. With several `channels` the
    numbers of a row are those of each in turn, and come out as one colour after the other.
    `factor` is what its codes are chosen with; None: each is the nearest.
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
    channels: int = 1
    factor: FactorOf | None = None

    def runs(self) -> list[tuple[int, int]]:
        """Its rows of the source as (first, end) of neighbours, ascending."""
        if self.order is None:
            return [(self.start, self.stop)]
        rows = np.sort(self.order)
        ends = np.flatnonzero(np.diff(rows) != 1) + 1
        return [(int(run[0]), int(run[-1]) + 1) for run in np.split(rows, ends)]

    def arranged(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """The rows of its runs, one after the other, in the order asked for."""
        return rows if self.order is None else rows[np.argsort(np.argsort(self.order))]


def blocks_of(
    tensors: Sequence[GgufTensor],
    infos: Sequence[TensorInfo],
    sliced: Mapping[str, SlicedTensor],
    numbers: Iterable[int],
    imatrix: Imatrix | None,
    feedback: Feedback | None = None,
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
        step = rows_of_block(shape[-1])
        matrix = 0
        sources = [sliced[name] for name in tensor.sources]
        for source in sources if tensor.values is None else [tensor.values]:
            for matrix_start in range(0, math.prod(source.shape) // width, rows * view.parts):
                first = matrix_start + view.part * rows
                weights = None
                if importance is not None:
                    weights = importance[matrix if len(importance) > 1 else 0]
                factor = None
                if feedback is not None:
                    factor = feedback.of(tensor.sources, matrix, width, zeros.right)
                for begin in range(first, first + rows, part):
                    for start in range(begin, begin + part, step):
                        stop = min(start + step, begin + part)
                        below = zeros.below if stop == begin + part else 0
                        order = view.order(start - first, stop - first)
                        yield Block(
                            number, info.name, start, stop, width, source, weights, below,
                            zeros.right, None if order is None else order + first,
                            tensor.channels, factor,
                        )  # fmt: skip
                matrix += 1


def rows_of_block(width: int) -> int:
    """Rows of so many numbers that make a block: a multiple of LANES, where there are more."""
    rows = max(1, ELEMENTS // width)
    return round(rows / LANES) * LANES if rows > LANES else rows


def _importance(imatrix: Imatrix | None, name: str, right: int) -> NDArray[np.float32] | None:
    """Weights of a tensor's columns, [matrices, width + right]; None where none are known."""
    entry = None if imatrix is None else imatrix.entries.get(name)
    return None if entry is None else padded_entry(entry, right).means()


def block_rows(source: RowSource, block: Block) -> NDArray[np.float32]:
    """The block's numbers and zeros, float32 [stop - start + below, width + right].

    Raises as `RowSource.rows` does.
    """
    if not isinstance(block.source, SlicedTensor):
        values = block.source.reshape(-1, block.width)[block.start : block.stop]
        return np.ascontiguousarray(values)
    numbers = block.arranged(source.rows(block.source, block.width, block.runs()))
    if block.channels > 1:
        numbers = numbers.reshape(len(numbers), -1, block.channels).swapaxes(1, 2)
    values = np.ascontiguousarray(numbers).reshape(-1, block.width)
    return padded_rows(values, block.below, block.right)


def block_pieces(block: Block) -> list[Piece]:
    """Where the bytes of the block lie; nowhere for numbers made from the config."""
    if not isinstance(block.source, SlicedTensor):
        return []
    row_bytes = STORAGE[block.source.dtype].itemsize * block.width
    return [
        piece
        for first, end in block.runs()
        for piece in pieces_between(block.source, first * row_bytes, end * row_bytes)
    ]
