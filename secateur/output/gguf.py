"""Writing a planned GGUF straight from the shards: select, widen, encode, one slab at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint.pieces import PiecedTensor
from secateur.checkpoint.reader import Checkpoint
from secateur.checkpoint.tensors import STORAGE, NamedTensor, to_float32
from secateur.errors import CheckpointError
from secateur.formats.ggml import encode
from secateur.formats.gguf import TensorInfo
from secateur.formats.gguf_tensors import GgufTensor
from secateur.formats.gguf_writer import TensorChunk, write_gguf
from secateur.formats.imatrix import Imatrix
from secateur.planning.experts import select_experts
from secateur.planning.gguf_form import GgufForm
from secateur.planning.selection import Keep

SLAB = 32 << 20
"""Elements that are widened and encoded at a time: 128 MiB of float32."""


@dataclass(frozen=True)
class _Slab:
    """Some rows of one matrix: float32 [R, C], and which matrix of the stack they belong to."""

    matrix: int
    rows: NDArray[np.float32]


def write_gguf_form(
    form: GgufForm,
    checkpoint: Checkpoint,
    keep: Keep,
    folder: Path,
    *,
    imatrix: Imatrix | None,
    threads: int = 1,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> Path:
    """Write the file of a decided GGUF into `folder`; returns its path.

    `imatrix` holds the experts kept, in order. The bytes do not depend on `threads`. Peak
    memory: one slab as float32 and its encoding. The file is complete or absent.
    """
    path = folder / form.file
    pieced = {tensor.name: tensor for tensor in select_experts(checkpoint, keep)}

    def chunks() -> Iterator[TensorChunk]:
        for tensor, info in zip(form.tensors, form.infos, strict=True):
            importance = None if imatrix is None else imatrix.importance(info.name)
            for slab in _slabs(tensor, info, pieced):
                weights = None
                if importance is not None:
                    weights = importance[slab.matrix if len(importance) > 1 else 0]
                data = encode(slab.rows, info.type, weights, threads)
                progress(data.nbytes)
                yield TensorChunk(info.name, data.reshape(-1))

    write_gguf(path, form.metadata, form.infos, chunks())
    return path


def _slabs(
    tensor: GgufTensor, info: TensorInfo, pieced: Mapping[str, PiecedTensor]
) -> Iterator[_Slab]:
    """A tensor's rows, matrix by matrix, at most SLAB elements at a time."""
    width = info.shape[-1]
    if tensor.values is not None:
        yield _Slab(0, np.ascontiguousarray(tensor.values.reshape(-1, width)))
        return
    rows_per_matrix = info.shape[-2] if len(info.shape) > 1 else 1
    matrix = 0
    for name in tensor.sources:
        source = pieced[name]
        matrices = math.prod(source.shape) // (rows_per_matrix * width)
        for number in range(matrices):
            first = number * rows_per_matrix
            step = max(1, SLAB // width)
            for start in range(first, first + rows_per_matrix, step):
                stop = min(start + step, first + rows_per_matrix)
                yield _Slab(matrix, _rows(source, start, stop, width))
            matrix += 1


def _rows(source: PiecedTensor, start: int, stop: int, width: int) -> NDArray[np.float32]:
    """Rows `start:stop` of a tensor seen as [rows, width], as float32."""
    size = STORAGE[source.dtype].itemsize * width
    raw = bytearray()
    position = 0
    for piece in source.pieces:
        begin = max(start * size, position)
        end = min(stop * size, position + piece.nbytes)
        if begin < end:
            with piece.path.open("rb") as file:
                file.seek(piece.offset + begin - position)
                raw += file.read(end - begin)
        position += piece.nbytes
    if len(raw) != (stop - start) * size:
        raise CheckpointError(
            f"a shard ends inside tensor {source.name!r}: it was changed after it was opened"
        )
    array = np.frombuffer(raw, STORAGE[source.dtype]).reshape(stop - start, width)
    values = to_float32(NamedTensor(source.name, source.dtype, array))
    if not np.isfinite(values).all():
        raise CheckpointError(
            f"tensor {source.name!r} holds NaN or infinity: mend the checkpoint before converting"
        )
    return np.ascontiguousarray(values)
