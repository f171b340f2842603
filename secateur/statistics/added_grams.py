"""The Gram matrices of the layers that were run so far, before their file's header can be written.

The matrices are in one file, and what there is of each layer is a line of JSON in another: so a
pass that was stopped goes on after any of its layers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.errors import StatisticsError
from secateur.statistics.gram import Sums
from secateur.system.resources import cores


class InputSums(NamedTuple):
    """The Gram matrices of one input, and the tokens behind them."""

    sums: Sums
    """int64 [M, stored_numbers(C)]"""
    tokens: NDArray[np.int64]
    """[M]"""
    columns: int


class LayerGrams(NamedTuple):
    """The inputs of a layer by name, and the name that each linear layer's input has there."""

    inputs: Mapping[str, InputSums]
    shared_by: Mapping[str, str]


def hash_matrices(found: InputSums) -> list[str]:
    """sha256 (hex) of every matrix of an input with its tokens and columns; in several threads."""

    def hash_matrix(sums: Sums, tokens: int) -> str:
        digest = hashlib.sha256(np.ascontiguousarray(sums).data)
        digest.update(f" {tokens} {found.columns}".encode())
        return digest.hexdigest()

    with ThreadPoolExecutor(max(1, min(cores(), len(found.tokens)))) as pool:
        return list(pool.map(hash_matrix, found.sums, found.tokens))


@dataclass(frozen=True)
class AddedGrams:
    """The layers that were added: `data` and `index` are their files, `layers` the index."""

    data: IO[bytes]
    index: IO[bytes]
    layers: list[dict[str, Any]]

    def add(self, layer: LayerGrams) -> None:
        """Add a layer."""
        arrays: dict[str, Any] = {}
        for name, one in layer.inputs.items():
            for what, array in (("sums", one.sums), ("tokens", one.tokens)):
                start = self.data.tell()
                self.data.write(np.ascontiguousarray(array).data)
                arrays[f"{name}.{what}"] = {
                    "dtype": "I64", "shape": list(array.shape),
                    "data_offsets": [start, self.data.tell()],
                }  # fmt: skip
        self.data.flush()
        entry = {
            "arrays": arrays,
            "columns": {name: one.columns for name, one in layer.inputs.items()},
            "matrices": {name: len(one.tokens) for name, one in layer.inputs.items()},
            "hashes": {name: hash_matrices(one) for name, one in layer.inputs.items()},
            "shared_by": dict(layer.shared_by),
            "end": self.data.tell(),
        }
        self.index.write(json.dumps(entry).encode() + b"\n")
        self.index.flush()
        self.layers.append(entry)

    def header(self) -> dict[str, Any]:
        """Of all arrays, as safetensors has it."""
        return self._joined("arrays")

    def describe(self) -> dict[str, dict[str, Any]]:
        """What there is of all layers."""
        parts = {name: self._joined(name) for name in ("columns", "matrices", "hashes")}
        return {**parts, "shared_by": dict(sorted(self._joined("shared_by").items()))}

    def sha256(self) -> str:
        """Of all matrices."""
        return hashlib.sha256(json.dumps(self._joined("hashes")).encode()).hexdigest()

    def copy_into(self, file: IO[bytes]) -> None:
        """Write the data of all arrays."""
        self.data.seek(0)
        shutil.copyfileobj(self.data, file, 1 << 20)

    def _joined(self, part: str) -> dict[str, Any]:
        return {name: value for layer in self.layers for name, value in layer[part].items()}


@contextmanager
def open_added(path: Path, begun: int) -> Iterator[AddedGrams]:
    """The first `begun` layers that were added for the file `path`; more may be added.

    Raises StatisticsError when there are fewer.
    """
    paths = path.with_suffix(".data"), path.with_suffix(".index")
    mode = "r+b" if begun else "w+b"
    with paths[0].open(mode) as data, paths[1].open(mode) as index:
        lines = index.read().splitlines(keepends=True)[:begun]
        layers = [json.loads(line) for line in lines]
        end = layers[-1]["end"] if layers else 0
        if len(layers) < begun or os.fstat(data.fileno()).st_size < end:
            raise StatisticsError(f"{paths[0]} is damaged: remove it, and calibrate again")
        for file, size in ((index, sum(map(len, lines))), (data, end)):
            file.truncate(size)
            file.seek(size)
        yield AddedGrams(data, index, layers)
