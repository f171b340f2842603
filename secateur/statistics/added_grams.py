"""The Gram matrices of the layers that were run so far, in a file whose header is written last.

The matrices go straight to their place behind the room of the header. What there is of each layer
is a line of JSON in another file: so a pass that was stopped goes on after any of its layers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
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
    """The layers that were added: to the file `data`, from its byte `start` on, and what there is
    of them to `index`; `layers` are its lines."""

    data: IO[bytes]
    index: IO[bytes]
    start: int
    layers: list[dict[str, Any]]

    def add(self, layer: LayerGrams) -> None:
        """Add a layer."""
        arrays: dict[str, Any] = {}
        for name, one in layer.inputs.items():
            for what, array in (("sums", one.sums), ("tokens", one.tokens)):
                begin = self._at()
                self.data.write(np.ascontiguousarray(array).data)
                arrays[f"{name}.{what}"] = {
                    "dtype": "I64", "shape": list(array.shape),
                    "data_offsets": [begin, self._at()],
                }  # fmt: skip
        self.data.flush()
        entry = {
            "arrays": arrays,
            "columns": {name: one.columns for name, one in layer.inputs.items()},
            "matrices": {name: len(one.tokens) for name, one in layer.inputs.items()},
            "hashes": {name: hash_matrices(one) for name, one in layer.inputs.items()},
            "shared_by": dict(layer.shared_by),
            "end": self._at(),
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

    def finish(self, header: bytes) -> None:
        """Write the header, which takes all of its room."""
        if len(header) != self.start:
            raise ValueError(f"the header takes {len(header)} bytes, its room is {self.start}")
        self.data.seek(0)
        self.data.write(header)

    def _at(self) -> int:
        """Where the data is, behind the header."""
        return self.data.tell() - self.start

    def _joined(self, part: str) -> dict[str, Any]:
        return {name: value for layer in self.layers for name, value in layer[part].items()}


@contextmanager
def open_added(path: Path, start: int, begun: int | None) -> Iterator[AddedGrams]:
    """The first `begun` layers that were added to the file `path`, whose header takes `start`
    bytes; more may be added. With None the file is new, and nobody is to go on with it.

    Raises StatisticsError when there are fewer.
    """
    mode = "r+b" if begun else "w+b"
    with (
        path.open(mode) as data,
        BytesIO() if begun is None else path.with_suffix(".index").open(mode) as index,
    ):
        lines = index.read().splitlines(keepends=True)[: begun or 0]
        layers = [json.loads(line) for line in lines]
        end = start + (layers[-1]["end"] if layers else 0)
        if begun and (len(layers) < begun or os.fstat(data.fileno()).st_size < end):
            raise StatisticsError(f"{path} is damaged: remove it, and calibrate again")
        for file, size in ((index, sum(map(len, lines))), (data, end)):
            file.truncate(size)
            file.seek(size)
        yield AddedGrams(data, index, start, layers)
