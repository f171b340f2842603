"""Writing a planned MLX model straight from the shards, into a folder of its own.

Every block of rows is read, widened and quantized by one thread while it is in the processor's
cache, and handed on in order, so that the bytes do not depend on the number of workers. Of a
quantized matrix the codes are written as they come, scales and biases wait until they are through.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint.byte_ranges import SlicedTensor
from secateur.checkpoint.companion_files import copy_companion_files
from secateur.checkpoint.reader import INDEX, Checkpoint
from secateur.checkpoint.rows import RowEdit, RowSource
from secateur.checkpoint.tensors import NamedTensor, from_float32, to_float32
from secateur.errors import FormatError, NumericError
from secateur.formats.mlx.codec import quantize
from secateur.formats.mlx.rules import mlx_config
from secateur.formats.mlx.tensors import MlxTensor
from secateur.outputs.blocks import Block, block_pieces, block_rows, rows_of_block
from secateur.outputs.feedback import Feedback
from secateur.outputs.mlx.layout import MlxLayout, MlxShard
from secateur.pruning.expert_slices import select_experts
from secateur.pruning.selection import Keep
from secateur.rounding.mlx_grids import MlxGrid
from secateur.system.atomic import write_bytes
from secateur.system.continued_file import ContinuedFile
from secateur.system.in_order import in_order
from secateur.system.progress import Counter, Progress, no_progress

_CONFIG = "config.json"
_PROCESSORS = "*processor_config.json"
"""For pictures and sounds, which mlx-lm's models do not take."""

Part = NDArray[np.generic]


def write_mlx(
    layout: MlxLayout,
    checkpoint: Checkpoint,
    keep: Keep,
    folder: Path,
    *,
    feedback: Feedback | None = None,
    edits: Sequence[RowEdit] = (),
    workers: int = 1,
    progress: Progress = no_progress,
) -> dict[str, str]:
    """Write a decided MLX model into its folder in `folder`; returns name -> sha256.

    A shard that is there already is left alone (and out of what is returned), one that was
    interrupted goes on after its last whole tensor. Peak memory: for every thread two blocks as
    float32 (4 MiB) and four encoded ones (at most 2 MiB each), one tensor's scales and biases, and
    what `feedback` takes. Raises CheckpointError for a shard that cannot be read or holds NaN,
    NumericError for a number too large for its type, WriteError if the disk refuses.
    """
    home = folder / layout.folder
    hashes = _write_companions(layout, checkpoint, len(next(iter(keep.values()))), home)
    count = Counter(progress, f"write {layout.folder}", sum(layout.files.values()), "bytes")
    count(len(layout.index))
    sliced = {tensor.name: tensor for tensor in select_experts(checkpoint, keep)}
    decides = [checkpoint.identity(), sorted(keep.items()), feedback and feedback.identity]
    with RowSource(sliced.values(), edits) as source:
        for shard in layout.shards:
            if (home / shard.name).exists():
                count(shard.nbytes)
                continue
            key = hashlib.sha256(json.dumps(decides).encode() + shard.header).hexdigest()
            with ContinuedFile(home / shard.name, key) as file:
                _write_shard(shard, file, sliced, source, feedback, workers, count)
                hashes[shard.name] = file.finish()
    return {f"{layout.folder}/{name}": digest for name, digest in hashes.items()}


def _write_companions(
    layout: MlxLayout, checkpoint: Checkpoint, experts: int, home: Path
) -> dict[str, str]:
    """Config, index, tokenizer and templates."""
    text = (checkpoint.path / _CONFIG).read_bytes().decode("utf-8")
    config = mlx_config(text, checkpoint.family, experts, layout.quantization)
    hashes = copy_companion_files(checkpoint.path, home, _PROCESSORS)
    for name, data in {_CONFIG: config.encode(), INDEX: layout.index}.items():
        write_bytes(home / name, data)
        hashes[name] = hashlib.sha256(data).hexdigest()
    return hashes


def _write_shard(
    shard: MlxShard,
    file: ContinuedFile,
    sliced: Mapping[str, SlicedTensor],
    source: RowSource,
    feedback: Feedback | None,
    workers: int,
    count: Counter,
) -> None:
    """Write what a file lacks."""

    def encode_block(block: Block) -> list[Part]:
        return _encode(shard.tensors[block.tensor], block_rows(source, block), block)

    if not file.at:
        file.append(shard.header)
    count(file.at)
    lacking = list(enumerate(shard.tensors))[file.done :]
    blocks = source.ahead(_blocks(lacking, sliced, feedback), block_pieces)
    for number, made in groupby(
        in_order(encode_block, blocks, workers), key=lambda item: item[0].tensor
    ):
        for data in _in_file_order(parts for _, parts in made):
            file.append(data)
            count(len(data))
        file.note(number + 1, file.at)
    if file.at != shard.nbytes:
        raise FormatError(f"{file.path}: wrote {file.at} bytes, predicted {shard.nbytes}")


def _in_file_order(blocks: Iterable[list[Part]]) -> Iterator[memoryview]:
    """Of a tensor first all codes, then all scales, then all biases."""
    waiting: list[list[Part]] = []
    for parts in blocks:
        yield _bytes_of(parts[0])
        waiting.append(parts[1:])
    for column in zip(*waiting, strict=True):
        yield _bytes_of(np.concatenate(column))


def _bytes_of(part: Part) -> memoryview:
    return np.ascontiguousarray(part).reshape(-1).view(np.uint8).data


def _blocks(
    tensors: Iterable[tuple[int, MlxTensor]],
    sliced: Mapping[str, SlicedTensor],
    feedback: Feedback | None,
) -> Iterator[Block]:
    """The rows of numbered tensors, in their order, matrix by matrix."""
    for number, tensor in tensors:
        width = tensor.shape[-1]
        nth, of = tensor.half
        step = rows_of_block(width)
        done = 0
        for source in (sliced[name] for name in tensor.sources):
            rows = source.shape[-2] if len(source.shape) > 1 else 1
            for matrix in range(0, source.elements // width, rows):
                first = matrix + nth * rows // of
                last = first + rows // of
                factor = None
                if feedback is not None and tensor.kind is not None:
                    factor = feedback.of(tensor.sources, done, width, 0)
                done += 1
                for start in range(first, last, step):
                    stop = min(start + step, last)
                    yield Block(
                        number, tensor.name, start, stop, width, source, None, factor=factor
                    )


def _encode(tensor: MlxTensor, rows: NDArray[np.float32], block: Block) -> list[Part]:
    """The rows as the tensor's parts."""
    assert isinstance(block.source, SlicedTensor)
    try:
        if tensor.dtype != block.source.dtype or tensor.kind is None:
            stored = from_float32(rows, tensor.dtype)
            if tensor.kind is None:
                return [stored]
            rows = to_float32(NamedTensor(tensor.name, tensor.dtype, stored))
        quantized = quantize(rows, tensor.kind, tensor.dtype)
    except NumericError as error:
        raise NumericError(f"tensor {tensor.name!r}: {error}") from None
    if block.factor is not None:
        grid = MlxGrid(tensor.kind, tensor.dtype)
        factor = block.factor.get(grid.groups)
        if factor is not None:
            quantized = grid.round(rows, quantized, factor, block.factor.choose)
    return [part for part in quantized if part is not None]
