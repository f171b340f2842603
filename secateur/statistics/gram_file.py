"""The file of Gram matrices, next to the statistics that were made with it.

It is large (4 bytes for every pair of a layer's inputs), so it is a file of its own, made on
request and written a layer at a time. It is safetensors:

    {name}.sums      int64 [M, n]   see statistics.gram; `name` is a linear layer's weight
    {name}.tokens    int64 [M]      tokens behind each matrix

and a JSON document in its metadata: the kind, the columns of every input, and for every linear
layer the name under which its input is (`shared_by`: projections of one input share it).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from secateur.errors import StatisticsError
from secateur.statistics.described_file import FileKind, open_described
from secateur.statistics.gram import GramKind, Sums, stored_numbers
from secateur.statistics.sample_file import origin_of
from secateur.statistics.statistics import Statistics
from secateur.system.atomic import atomic_path

METADATA = "secateur-gram"
VERSION = 1


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


@dataclass(frozen=True)
class GramDescription:
    """What a file holds; `made_from` says to which statistics it belongs (`origin_of`)."""

    kind: GramKind
    columns: Mapping[str, int]
    matrices: Mapping[str, int]
    shared_by: Mapping[str, str]
    made_from: Mapping[str, Any]
    sha256: str
    """of all arrays, in their order"""


def gram_path(statistics: Path) -> Path:
    """Where those of a statistics file lie: stats.safetensors, stats.gram.safetensors."""
    return statistics.with_name(f"{statistics.stem}.gram{statistics.suffix}")


@contextmanager
def write_grams(
    path: Path, kind: GramKind, made_from: Mapping[str, Any]
) -> Iterator[Callable[[LayerGrams], None]]:
    """A function that adds a layer's matrices; the file is complete when the block ends without an
    error, or absent. While it is made the disk holds it twice. Raises WriteError."""
    header: dict[str, Any] = {}
    columns: dict[str, int] = {}
    matrices: dict[str, int] = {}
    shared_by: dict[str, str] = {}
    digest = hashlib.sha256()
    with atomic_path(path) as partial, tempfile.TemporaryFile(dir=path.parent) as data:

        def add(layer: LayerGrams) -> None:
            shared_by.update(layer.shared_by)
            for name, (sums, tokens, size) in layer.inputs.items():
                columns[name], matrices[name] = size, len(tokens)
                for what, array in (("sums", sums), ("tokens", tokens)):
                    start = data.tell()
                    content = np.ascontiguousarray(array)
                    data.write(content.data)
                    digest.update(content.data)
                    header[f"{name}.{what}"] = {
                        "dtype": "I64", "shape": list(array.shape),
                        "data_offsets": [start, data.tell()],
                    }  # fmt: skip

        yield add
        described = GramDescription(
            kind, columns, matrices, dict(sorted(shared_by.items())), made_from,
            digest.hexdigest(),
        )  # fmt: skip
        text = json.dumps({"version": VERSION, **asdict(described)}, sort_keys=True)
        header["__metadata__"] = {METADATA: text}
        head = json.dumps(header, sort_keys=True, ensure_ascii=False).encode()
        head += b" " * (-len(head) % 8)
        data.seek(0)
        with partial.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            shutil.copyfileobj(data, file, 1 << 20)


_KIND = FileKind("holds no Gram matrices", METADATA, VERSION, "--gram shared")


class GramFile:
    """Gram matrices on disk: what there is, and one input's when asked."""

    def __init__(self, path: Path) -> None:
        """Raises StatisticsError for a file that is missing, damaged or of another kind."""
        self.path = path
        with open_described(path, _KIND) as (_, data):
            self.description = GramDescription(**data)

    def matrices(self, name: str) -> int:
        """How many matrices there are of an input: one, or one for each expert."""
        return self.description.matrices[name]

    def input(self, name: str, number: int | None = None) -> InputSums:
        """The matrices of an input, or the one of this number.

        Raises StatisticsError for a damaged file.
        """
        part = slice(None) if number is None else slice(number, number + 1)
        try:
            with safe_open(self.path, "np") as file:
                sums, tokens = (
                    file.get_slice(f"{name}.{what}")[part] for what in ("sums", "tokens")
                )
        except (OSError, SafetensorError, ValueError):
            raise StatisticsError(
                f"{self.path} cannot be read at {name!r}: it is damaged, calibrate again"
            ) from None
        columns = self.description.columns[name]
        if sums.shape != (len(tokens), stored_numbers(columns)):
            raise StatisticsError(f"{self.path} is damaged at {name!r}: calibrate again")
        return InputSums(sums, tokens, columns)

    def check_origin(self, statistics: Statistics, path: Path) -> None:
        """Raise StatisticsError unless this belongs to the statistics at `path`."""
        if dict(self.description.made_from) != origin_of(statistics):
            raise StatisticsError(
                f"{self.path} does not belong to {path}, it was made with other statistics: put "
                "back the file that was written with them"
            )


def merge_grams(parts: Sequence[GramFile], merged: Statistics, path: Path) -> None:
    """Write the Gram matrices of merged statistics: exact, in any order.

    Raises StatisticsError for files of different kinds. Peak memory: one input of two parts.
    """
    first = parts[0].description
    for part in parts[1:]:
        other = part.description
        if (other.kind, other.columns) != (first.kind, first.columns):
            raise StatisticsError(
                f"{parts[0].path} and {part.path} have Gram matrices of different kinds "
                f"({first.kind}, {other.kind}): calibrate both with the same --gram"
            )
    with write_grams(path, first.kind, origin_of(merged)) as add:
        for name in first.columns:
            total = parts[0].input(name)
            for part in parts[1:]:
                more = part.input(name)
                np.add(total.sums, more.sums, out=total.sums)
                np.add(total.tokens, more.tokens, out=total.tokens)
            add(LayerGrams({name: total}, first.shared_by))
