"""llama.cpp's importance matrix: per weight, the sum of squared inputs of each column.

In a file (GGUF, `general.type` "imatrix") a weight has two F32 tensors: `NAME.in_sum2`, raw sums
[matrices, inputs], and `NAME.counts`, tokens [matrices, 1]; a single matrix is stored without
the first axis. A dense weight is one matrix; an experts' stack has one per expert, counted by the
tokens routed to it, so the file is also a histogram of the routing.
Source: llama.cpp's tools/imatrix and common/imatrix-loader.cpp.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secateur.errors import FormatError
from secateur.formats.gguf.container import STRING, TensorInfo, Value
from secateur.formats.gguf.reader import GgufFile, read_gguf
from secateur.formats.gguf.writer import TensorChunk, write_gguf

IMATRIX_KEYS = {
    "general.type": "imatrix",
    "imatrix.datasets": "names of the text that was read",
    "imatrix.chunk_count": "chunks of it",
    "imatrix.chunk_size": "tokens of a chunk",
}
"""The metadata of the file: key -> what it holds."""

QUANTIZE_KEYS = {
    "quantize.imatrix.file": "name of the matrix's file",
    "quantize.imatrix.dataset": "the first of its texts",
    "quantize.imatrix.entries_count": "weights that it has sums of",
    "quantize.imatrix.chunks_count": "its chunks",
}
"""What a GGUF that was quantized with a matrix says of it."""

_SUMS = ".in_sum2"
_COUNTS = ".counts"
_MOST_TOKENS = 1 << 53
"""No corpus has more, and larger numbers would not fit into 64 bits when they are added."""


@dataclass(frozen=True, slots=True)
class ImatrixEntry:
    """Sums of one weight: `in_sum2` float32 [matrices, inputs], `counts` float32 [matrices]."""

    in_sum2: NDArray[np.float32]
    counts: NDArray[np.float32]

    def means(self) -> NDArray[np.float32]:
        """Mean squared inputs, float32 [matrices, inputs]: what llama-quantize weighs errors by; 1
        where a matrix saw no token, so that all columns count the same."""
        counts = np.rint(self.counts)[:, None]
        ones = np.ones_like(self.in_sum2, dtype=np.float32)
        return np.divide(self.in_sum2, counts, where=counts > 0, out=ones)


@dataclass(frozen=True, slots=True)
class Imatrix:
    """An importance matrix. `entries` are by GGUF tensor name ("blk.0.attn_q.weight").

    `chunk_count` and `chunk_size` (tokens) say how much of `datasets` was read. A chunk size of 0
    is that of the older .dat form, whose counts are chunks instead of tokens.
    """

    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int
    entries: Mapping[str, ImatrixEntry]


def read_imatrix(path: Path) -> Imatrix:
    """Read an importance matrix in GGUF form.

    Raises FormatError for another kind of file, for sums without counts or of another shape, and
    for numbers that are negative or not finite. `file.open_imatrix` reads both forms.
    """
    file = read_gguf(path)
    kind = file.metadata.get("general.type")
    if kind is None or kind.value != "imatrix":
        raise FormatError(f"{path}: general.type is {kind and kind.value!r}, expected 'imatrix'")
    names = dict.fromkeys(_strip_suffix(path, name) for name in file.tensors)
    if not names:
        raise FormatError(f"{path}: holds no entries: record it again")
    datasets = file.value("imatrix.datasets")
    chunk_count, chunk_size = file.value("imatrix.chunk_count"), file.value("imatrix.chunk_size")
    if not isinstance(datasets, tuple) or not isinstance(chunk_count, int):
        raise FormatError(f"{path}: imatrix.datasets or imatrix.chunk_count is of a wrong kind")
    if not isinstance(chunk_size, int):
        raise FormatError(f"{path}: imatrix.chunk_size is of a wrong kind")
    return Imatrix(
        datasets=tuple(map(str, datasets)),
        chunk_count=chunk_count,
        chunk_size=chunk_size,
        entries={name: _read_entry(file, name) for name in names},
    )


def write_imatrix(path: Path, imatrix: Imatrix) -> int:
    """Write the file as llama-imatrix does, entries sorted by name; returns its bytes."""
    metadata = {
        "general.type": Value(STRING, "imatrix"),
        "imatrix.datasets": Value(STRING, imatrix.datasets),
        "imatrix.chunk_count": Value("u32", imatrix.chunk_count),
        "imatrix.chunk_size": Value("u32", imatrix.chunk_size),
    }
    infos = []
    for name, entry in sorted(imatrix.entries.items()):
        matrices, inputs = entry.in_sum2.shape
        stack = (matrices,) if matrices > 1 else ()
        infos.append(TensorInfo(name + _SUMS, "F32", (*stack, inputs)))
        infos.append(TensorInfo(name + _COUNTS, "F32", (*stack, 1)))
    return write_gguf(path, metadata, infos, _make_chunks(imatrix))


def find_layer(name: str) -> int | None:
    """The layer in a GGUF tensor's name; None for a tensor outside the layers."""
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else None


def make_quantize_metadata(imatrix: Imatrix, file: str) -> dict[str, Value]:
    """The keys by which llama-quantize says, in the model's file, what it weighed errors with.

    `file` is the importance matrix's name; llama.cpp keeps 127 bytes of a text here.
    """
    metadata = {"quantize.imatrix.file": Value(STRING, _shorten(file))}
    if imatrix.datasets:
        metadata["quantize.imatrix.dataset"] = Value(STRING, _shorten(imatrix.datasets[0]))
    metadata["quantize.imatrix.entries_count"] = Value("u32", len(imatrix.entries))
    if imatrix.chunk_count:
        metadata["quantize.imatrix.chunks_count"] = Value("u32", imatrix.chunk_count)
    return metadata


def _shorten(text: str) -> str:
    return text.encode()[:127].decode(errors="ignore")


def merge(first: Imatrix, second: Imatrix) -> Imatrix:
    """Both recordings as one: sums and counts add, entries of either are kept.

    Raises FormatError if they are of different chunk sizes or of models of different shapes.
    """
    if first.chunk_size != second.chunk_size:
        raise FormatError(
            f"importance matrices of chunks of {first.chunk_size} and {second.chunk_size} tokens "
            "do not merge: record both with one length"
        )
    entries = dict(first.entries)
    for name, entry in second.entries.items():
        ours = entries.get(name)
        if ours is None:
            entries[name] = entry
            continue
        if ours.in_sum2.shape != entry.in_sum2.shape:
            raise FormatError(
                f"{name}: sums of shapes {ours.in_sum2.shape} and {entry.in_sum2.shape} do not "
                "merge: the recordings are of different models"
            )
        entries[name] = ImatrixEntry(ours.in_sum2 + entry.in_sum2, ours.counts + entry.counts)
    return replace(
        first,
        datasets=first.datasets + second.datasets,
        chunk_count=first.chunk_count + second.chunk_count,
        entries=entries,
    )


def select_experts(imatrix: Imatrix, keep: Mapping[int, Sequence[int]]) -> Imatrix:
    """The matrix of the pruned model: of each layer's stacks only the experts kept, in that order.

    A layer that `keep` does not name stays whole. Raises FormatError for an expert that a stack
    does not have.
    """
    return replace(
        imatrix,
        entries={
            name: _select_matrices(name, entry, keep) for name, entry in imatrix.entries.items()
        },
    )


def _select_matrices(
    name: str, entry: ImatrixEntry, keep: Mapping[int, Sequence[int]]
) -> ImatrixEntry:
    layer = find_layer(name)
    kept = None if layer is None else keep.get(layer)
    if kept is None or entry.counts.size == 1:
        return entry
    rows = np.asarray(kept, dtype=np.intp)
    if rows.size and (rows.min() < 0 or rows.max() >= entry.counts.size):
        raise FormatError(
            f"{name} has {entry.counts.size} experts, asked to keep {rows.max()}: the importance "
            "matrix is of another model, or is pruned already"
        )
    return ImatrixEntry(entry.in_sum2[rows], entry.counts[rows])


def _strip_suffix(path: Path, tensor: str) -> str:
    for suffix in (_SUMS, _COUNTS):
        if tensor.endswith(suffix):
            return tensor.removesuffix(suffix)
    raise FormatError(f"{path}: tensor {tensor!r} is neither {_SUMS} nor {_COUNTS} of a weight")


def _read_entry(file: GgufFile, name: str) -> ImatrixEntry:
    sums, counts = file.tensor(name + _SUMS), file.tensor(name + _COUNTS)
    matrices = math.prod(counts.shape)
    fits = counts.shape[-1] == 1 and math.prod(sums.shape) == matrices * sums.shape[-1]
    if (sums.type, counts.type) != ("F32", "F32") or not fits:
        raise FormatError(
            f"{file.path}: {name} has sums {sums.type} {list(sums.shape)} and counts "
            f"{counts.type} {list(counts.shape)}, expected F32 [n, inputs] and F32 [n, 1]"
        )
    entry = ImatrixEntry(
        file.data(sums.name).view(np.float32).reshape(matrices, -1),
        file.data(counts.name).view(np.float32),
    )
    check_sums(file.path, name, entry)
    return entry


def check_sums(path: Path, name: str, entry: ImatrixEntry) -> None:
    """Raises FormatError for numbers that no sum of squares and no count can be."""
    for values in (entry.in_sum2, entry.counts):
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise FormatError(f"{path}: {name} holds numbers that are negative or not finite")
    if (entry.counts > _MOST_TOKENS).any():
        raise FormatError(
            f"{path}: {name} counts {entry.counts.max():.3g} tokens, expected {_MOST_TOKENS:,} at "
            "most: record it again"
        )


def _make_chunks(imatrix: Imatrix) -> Iterator[TensorChunk]:
    for name, entry in sorted(imatrix.entries.items()):
        for suffix, values in ((_SUMS, entry.in_sum2), (_COUNTS, entry.counts)):
            flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
            yield TensorChunk(name + suffix, flat.view(np.uint8))
