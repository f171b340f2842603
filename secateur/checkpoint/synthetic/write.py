"""Writing a random checkpoint, shard by shard: memory does not grow with the model."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secateur.checkpoint.companion_files import copy_companion_files
from secateur.checkpoint.headers import header_bytes
from secateur.checkpoint.hub import CONFIG, INDEX
from secateur.checkpoint.model_card import MODEL_CARD
from secateur.checkpoint.synthetic.design import RandomTensor
from secateur.checkpoint.synthetic.numbers import draw
from secateur.checkpoint.tensors import STORAGE
from secateur.checkpoint.writer import group_shards, index_bytes, natural_order
from secateur.errors import WriteError
from secateur.system.atomic import atomic_path, write_bytes, write_text
from secateur.system.flushed_file import OutputFile
from secateur.system.progress import Counter, Progress, no_progress
from secateur.system.sizes import show_bytes
from secateur.system.workdir import complete_or_absent

_VERSION = 1
"""Of the numbers that a seed gives."""


@dataclass(frozen=True)
class RandomModel:
    """A random checkpoint, decided. `described` is the line of its README; `companions` the folder
    whose tokenizer and templates are copied."""

    config: Mapping[str, Any] = field(repr=False)
    shards: Sequence[tuple[str, Sequence[RandomTensor]]] = field(repr=False)
    seed: int
    described: str
    companions: Path

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for _, tensors in self.shards for tensor in tensors)


def in_shards(
    tensors: Sequence[RandomTensor], limit: int
) -> list[tuple[str, Sequence[RandomTensor]]]:
    """(file name, its tensors in the order of their data), as every checkpoint is laid out here."""
    ordered = sorted(tensors, key=lambda tensor: natural_order(tensor.name))
    return [
        (name, sorted(group, key=lambda tensor: -STORAGE[tensor.dtype].itemsize))
        for name, group in group_shards(ordered, limit)
    ]


def write_random(
    model: RandomModel, folder: Path, workers: int, progress: Progress = no_progress
) -> None:
    """Write the checkpoint into the new folder `folder`, complete or absent.

    The same call after an interruption goes on after the last whole shard. Memory: some chunks of
    random numbers for each worker (`numbers.CHUNK`). Raises OutputError when `folder` exists,
    WriteError, before starting, when the disk has not enough room, and when it fails.
    """
    there = next(path for path in folder.absolute().parents if path.is_dir())
    config = json.dumps(model.config, indent=2, ensure_ascii=False) + "\n"
    shards = [(name, sum(tensor.nbytes for tensor in tensors)) for name, tensors in model.shards]
    key = hashlib.sha256(f"{_VERSION} {model.described} {shards}\n{config}".encode()).hexdigest()
    with complete_or_absent(folder, key) as work:
        done = {path.name for path in work.glob("*.safetensors")}
        left = [shard for shard in model.shards if shard[0] not in done]
        needed = sum(tensor.nbytes for _, tensors in left for tensor in tensors)
        if (room := shutil.disk_usage(there).free) < needed:
            raise WriteError(
                f"{there} has {show_bytes(room)} free, but the checkpoint takes "
                f"{show_bytes(needed)}: make room, choose another disk, or fewer layers"
            )
        count = Counter(progress, "write random weights", model.nbytes, "bytes")
        count(model.nbytes - needed)
        for name, tensors in left:
            _write_shard(work / name, tensors, model.seed, workers, count)
        if len(model.shards) > 1:
            write_bytes(work / INDEX, index_bytes(model.shards))
        copy_companion_files(model.companions, work)
        write_text(work / CONFIG, config)
        write_text(work / MODEL_CARD, f"{model.described}\n")


def _write_shard(
    path: Path, tensors: Sequence[RandomTensor], seed: int, workers: int, count: Counter
) -> None:
    streams = (stream for tensor in tensors for stream in tensor.streams)
    with atomic_path(path) as partial, OutputFile(partial) as out:
        out.write(header_bytes(tensors, "pt"))
        for chunk in draw(streams, seed, workers):
            out.write(chunk.data.cast("B"))
            count(chunk.nbytes)
        out.sync()
