"""The file of Gram matrices, next to the statistics that were made with it.

It is large (some 4 bytes for every pair of a layer's inputs), so it is a file of its own, made on
request and written a layer at a time. It is safetensors:

    {name}.sums      int64 [M, n]   see statistics.gram; `name` is a linear layer's weight
    {name}.tokens    int64 [M]      tokens behind each matrix

and a JSON document in its metadata: the kind, the columns of every input, for every linear layer
the name under which its input is (`shared_by`: projections of one input share it), and hashes.

The header comes last, into room that is kept for it: what it will hold is known but for the inputs
that turn out to be one, so that it ends in blanks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from secateur.checkpoint.headers import padded_header
from secateur.errors import StatisticsError
from secateur.statistics.added_grams import InputSums, LayerGrams, hash_matrices, open_added
from secateur.statistics.described_file import FileKind, describe, open_described
from secateur.statistics.gram import GramKind, stored_numbers
from secateur.statistics.sample_file import origin_of
from secateur.statistics.statistics import Statistics
from secateur.system.atomic import atomic_path, sync

METADATA = "secateur-gram"
VERSION = 3


_KIND = FileKind("holds no Gram matrices", METADATA, VERSION, "--gram own")


@dataclass(frozen=True)
class GramDescription:
    """What a file holds; `made_from` says to which statistics it belongs (`origin_of`)."""

    kind: GramKind
    columns: Mapping[str, int]
    matrices: Mapping[str, int]
    shared_by: Mapping[str, str]
    hashes: Mapping[str, list[str]]
    """of every matrix of an input, with its tokens"""
    made_from: Mapping[str, Any]
    sha256: str
    """of all hashes"""


def gram_path(statistics: Path) -> Path:
    """Where those of a statistics file lie: stats.safetensors, stats.gram.safetensors."""
    return statistics.with_name(f"{statistics.stem}.gram{statistics.suffix}")


def header_room(kind: GramKind, matrices: Mapping[str, int]) -> int:
    """Bytes that suffice for the header of a file, without `made_from`; a multiple of 8.

    `matrices` are all linear layers that may be in it, each with how many its input has: the
    header is largest when no two have one input, and every number all of its digits.
    """
    number, sha256 = 10**15, "0" * 64
    longest = max(matrices, key=_written, default="")
    described = GramDescription(
        kind, dict.fromkeys(matrices, number), dict.fromkeys(matrices, number),
        dict.fromkeys(matrices, longest), {name: [sha256] * n for name, n in matrices.items()},
        made_from={}, sha256=sha256,
    )  # fmt: skip
    array = {"dtype": "I64", "shape": [number] * 2, "data_offsets": [number] * 2}
    arrays = {f"{name}.{what}": array for name in matrices for what in ("sums", "tokens")}
    return _eights(len(_header_text(arrays, described).encode()))


def _header_text(arrays: Mapping[str, Any], described: GramDescription) -> str:
    header = {**arrays, "__metadata__": describe(_KIND, asdict(described))}
    return json.dumps(header, sort_keys=True, ensure_ascii=False)


def _written(value: Any) -> int:
    """Bytes that suffice for a value in the document, which is a text in the header."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return _eights(len(json.dumps(text, ensure_ascii=False).encode()))


def _eights(count: int) -> int:
    return -(-count // 8) * 8


@contextmanager
def write_grams(
    path: Path, kind: GramKind, made_from: Mapping[str, Any], room: int, begun: int | None = None
) -> Iterator[Callable[[LayerGrams], None]]:
    """A function that adds a layer's matrices; the file is complete when the block ends without an
    error, or absent. Every byte is written once, in its place, and the disk holds it once.

    `room` is what `header_room` gives. With `begun` the file stays in any case, in a folder that
    somebody else removes (a pass stopped after this file, and before the statistics, goes on from
    there), and goes on after so many layers of an earlier run. Raises WriteError, StatisticsError
    when those layers are not there.
    """
    room += _written(made_from)
    start = len(padded_header("", room))
    with (
        atomic_path(path) if begun is None else nullcontext(path) as target,
        open_added(target, start, begun) as added,
    ):
        yield added.add
        described = GramDescription(
            kind, **added.describe(), made_from=made_from, sha256=added.sha256()
        )
        added.finish(padded_header(_header_text(added.header(), described), room))
    if begun is not None:  # before the statistics are, which say that it is whole
        sync(path)


class GramFile:
    """Gram matrices on disk: what there is, and one input's when asked."""

    def __init__(self, path: Path) -> None:
        """Raises StatisticsError for a file that is missing, damaged or of another kind."""
        self.path = path
        with open_described(path, _KIND) as (_, data):
            self.description = GramDescription(**data)

    def room(self) -> int:
        """What `write_grams` needs for a file of these inputs, whatever it is made from."""
        found = self.description
        matrices = {name: found.matrices[first] for name, first in found.shared_by.items()}
        with self.path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        # Files of before there was room have none to spare.
        return max(header_room(found.kind, matrices), header - _written(found.made_from))

    def matrices(self, name: str) -> int:
        """How many matrices there are of an input: one, or one for each expert."""
        return self.description.matrices[name]

    def tokens(self) -> dict[str, list[int]]:
        """{input: the tokens behind each of its matrices}.

        Raises StatisticsError for a damaged file.
        """
        try:
            with safe_open(self.path, "np") as file:
                return {
                    name: file.get_tensor(f"{name}.tokens").tolist()
                    for name in self.description.columns
                }
        except (OSError, SafetensorError, ValueError):
            raise StatisticsError(
                f"{self.path} cannot be read: it is damaged, calibrate again"
            ) from None

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
        found = InputSums(sums, tokens, columns)
        if (
            sums.shape != (len(tokens), stored_numbers(columns))
            or hash_matrices(found) != self.description.hashes[name][part]
        ):
            raise StatisticsError(f"{self.path} is damaged at {name!r}: calibrate again")
        return found

    def check_origin(self, statistics: Statistics, path: Path) -> None:
        """Raise StatisticsError unless this belongs to the statistics at `path`."""
        if dict(self.description.made_from) != origin_of(statistics):
            raise StatisticsError(
                f"{self.path} does not belong to {path}, it was made with other statistics: put "
                "back the file that was written with them, or remove it"
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
    with write_grams(path, first.kind, origin_of(merged), parts[0].room()) as add:
        for name in first.columns:
            total = parts[0].input(name)
            for part in parts[1:]:
                more = part.input(name)
                np.add(total.sums, more.sums, out=total.sums)
                np.add(total.tokens, more.tokens, out=total.tokens)
            add(LayerGrams({name: total}, first.shared_by))
