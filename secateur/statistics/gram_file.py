"""The file of Gram matrices, next to the statistics that were made with it.

It is large (some 4 bytes for every pair of a layer's inputs), so it is a file of its own, made on
request and written a layer at a time. It is safetensors:

    {name}.sums      int64 [M, n]   see statistics.gram; `name` is a linear layer's weight
    {name}.tokens    int64 [M]      tokens behind each matrix

and a JSON document in its metadata: the kind, the columns of every input, for every linear layer
the name under which its input is (`shared_by`: projections of one input share it), and hashes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
from secateur.system.atomic import atomic_path

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


@contextmanager
def write_grams(
    path: Path, kind: GramKind, made_from: Mapping[str, Any], begun: int | None = None
) -> Iterator[Callable[[LayerGrams], None]]:
    """A function that adds a layer's matrices; the file is complete when the block ends without an
    error, or absent. While it is made the disk holds it twice.

    With `begun` what was added stays next to it in any case, until who made that folder removes it
    (a pass stopped after this file, and before the statistics, goes on from there), and goes on
    after so many layers of an earlier run. Raises WriteError, StatisticsError when those layers
    are not there.
    """
    with ExitStack() as stack:
        partial = stack.enter_context(atomic_path(path))
        if begun is None:
            temporary = tempfile.TemporaryDirectory(dir=path.parent)
            folder = Path(stack.enter_context(temporary))
        else:
            folder = path.parent
        added = stack.enter_context(open_added(folder / path.name, begun or 0))
        yield added.add
        described = GramDescription(
            kind, **added.describe(), made_from=made_from, sha256=added.sha256()
        )
        header = {**added.header(), "__metadata__": describe(_KIND, asdict(described))}
        with partial.open("wb") as file:
            file.write(padded_header(json.dumps(header, sort_keys=True, ensure_ascii=False)))
            added.copy_into(file)


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
    with write_grams(path, first.kind, origin_of(merged)) as add:
        for name in first.columns:
            total = parts[0].input(name)
            for part in parts[1:]:
                more = part.input(name)
                np.add(total.sums, more.sums, out=total.sums)
                np.add(total.tokens, more.tokens, out=total.tokens)
            add(LayerGrams({name: total}, first.shared_by))
