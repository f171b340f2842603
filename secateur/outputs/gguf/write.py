"""Writing planned GGUF files straight from the shards, all of them in one pass.

The files of one pruned model differ in types only: every block of rows is read and widened to
float32 once, encoded for each file, and appended to each. A thread takes a block from reading to
encoding while it is in the processor's cache; blocks are passed on in order, so that the bytes do
not depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint.rows import RowSource
from secateur.errors import NumericError
from secateur.formats.ggml.codec import encode
from secateur.formats.gguf.container import TensorInfo
from secateur.formats.gguf.writer import GgufWriter, TensorChunk
from secateur.outputs.base import WriteJob
from secateur.outputs.blocks import Block, block_pieces, block_rows, blocks_of
from secateur.outputs.gguf.layout import GgufLayout
from secateur.outputs.identity import content_key
from secateur.pruning.expert_slices import select_experts
from secateur.rounding.ggml_types import FEEDBACK_GRIDS
from secateur.system.in_order import in_order
from secateur.system.progress import Counter


@dataclass(frozen=True)
class _Target:
    """A file being written: it lacks the layout's tensors from number `since` on; `infos` are
    those from `first`."""

    writer: GgufWriter
    infos: tuple[TensorInfo, ...]
    first: int
    since: int

    @property
    def missing(self) -> int:
        """Bytes of the tensors that it lacks."""
        return sum(info.nbytes for info in self.infos[self.since - self.first :])

    def info(self, tensor: int) -> TensorInfo | None:
        """The tensor as this file has it; None if it has it already, or another part does."""
        last = self.first + len(self.infos)
        return self.infos[tensor - self.first] if self.since <= tensor < last else None


def write_ggufs(layouts: Sequence[GgufLayout], job: WriteJob) -> dict[str, str]:
    """Write the files of decided GGUFs into the job's folder; returns file -> sha256 of what was
    written.

    A file that is there already is left alone, one that was interrupted is resumed (see
    formats.gguf.writer). Peak memory: for every thread two blocks as float32 (4 MiB) and four
    encoded blocks for every file (at most 2 MiB each), one tensor's importance, the header of one
    file, and what feedback takes (outputs.feedback). Every file is complete or absent. Progress
    counts the bytes of all files' tensors.
    """
    key = content_key(job.checkpoint, job.imatrix, job.feedback.identity if job.feedback else None)
    sliced = {tensor.name: tensor for tensor in select_experts(job.checkpoint, job.keep)}
    hashes: dict[str, str] = {}
    count = Counter(job.progress, "write GGUF", sum(layout.nbytes for layout in layouts), "bytes")
    # Files whose tensors have the same shapes are made of the same blocks.
    for _, alike in groupby(sorted(layouts, key=_shapes), _shapes):
        group = list(alike)
        with ExitStack() as stack:
            targets = [
                target
                for layout in group
                for target in _open_targets(layout, job.folder, key, stack)
            ]
            count(
                sum(layout.nbytes for layout in group) - sum(target.missing for target in targets)
            )
            for target in targets:
                _finish_if_whole(target, hashes)
            source = stack.enter_context(RowSource(sliced.values(), job.edits))
            layout = group[0]
            needed = {n for n in range(len(layout.infos)) for t in targets if t.info(n) is not None}

            def encode_block(
                block: Block, targets: Sequence[_Target] = targets, source: RowSource = source
            ) -> list[NDArray[np.uint8] | None]:
                rows = block_rows(source, block)
                infos = [target.info(block.tensor) for target in targets]
                return [_encode(rows, info, block) for info in infos]

            blocks = blocks_of(
                layout.tensors, layout.infos, sliced, sorted(needed), job.imatrix, job.feedback
            )
            for block, made in in_order(
                encode_block, source.ahead(blocks, block_pieces), job.workers
            ):
                for target, data in zip(targets, made, strict=True):
                    if data is not None:
                        target.writer.write(TensorChunk(block.name, data.reshape(-1)))
                        count(data.nbytes)
                        _finish_if_whole(target, hashes)
    return hashes


def _open_targets(
    layout: GgufLayout, folder: Path, key: str, stack: ExitStack
) -> Iterator[_Target]:
    """The layout's files that are not finished yet, opened where they were interrupted."""
    for part in layout.parts:
        path = folder / part.file
        if not path.exists():
            infos = layout.infos[part.first : part.last]
            writer = stack.enter_context(GgufWriter(path, part.metadata, infos, key))
            yield _Target(writer, infos, part.first, part.first + writer.done)


def _finish_if_whole(target: _Target, hashes: dict[str, str]) -> None:
    if target.writer.done == len(target.infos):
        hashes[target.writer.path.name] = target.writer.finish()


def _encode(
    rows: NDArray[np.float32], info: TensorInfo | None, block: Block
) -> NDArray[np.uint8] | None:
    if info is None:
        return None
    if info.type == "F32":  # as they were read and checked: clipping bounds may be infinite
        return rows.view(np.uint8)
    try:
        nearest = encode(rows, info.type, block.weights)
    except NumericError as error:
        raise NumericError(f"tensor {info.name!r} as {info.type}: {error}") from None
    grid = FEEDBACK_GRIDS.get(info.type)
    if block.factor is None or grid is None:
        return nearest
    factor = block.factor.get(grid.groups)
    if factor is None:
        return nearest
    return grid.round(rows, nearest, factor, block.factor.choose)


def _shapes(layout: GgufLayout) -> tuple[tuple[int, ...], ...]:
    return tuple(info.shape for info in layout.infos)
