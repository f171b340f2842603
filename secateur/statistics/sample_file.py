"""The sample file: what the sampled tokens brought to every MoE layer, next to the statistics.

It is what `rerouted` is solved from, and large: 2 H + 4 E + 6 K bytes per token and layer, which
is 3.0 GB for 16,384 tokens on 30 layers with H = 2816, E = 128, K = 8. So it is a file of its own,
is written only on request, and is written and read a layer at a time. It is safetensors:

    token.category, token.hash, token.document, token.place   see TokenKeys, all [S]
    layer.{l}.inputs    uint16 [S, H]    the bits of bfloat16
    layer.{l}.scores    float32 [S, E]   router logits
    layer.{l}.experts   int16 [S, K]     what the model chose; -1 for a token left out as NaN
    layer.{l}.gates     float32 [S, K]   the routing weights that it used

Shapes: S tokens, H hidden, E experts, K chosen.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from secateur.checkpoint.headers import padded_header
from secateur.errors import StatisticsError
from secateur.statistics.described_file import (
    FileKind,
    describe,
    hash_arrays,
    open_described,
    read_document,
)
from secateur.statistics.statistics import Statistics
from secateur.statistics.token_sample import TokenKeys, join_keys, share_of, smallest
from secateur.system.atomic import atomic_path

METADATA = "secateur-sample"
VERSION = 2
_TYPES = {"inputs": "U16", "scores": "F32", "experts": "I16", "gates": "F32"}
_KEYS = {"category": "I16", "hash": "U64", "document": "U64", "place": "I32"}
_BYTES = {"U16": 2, "I16": 2, "F32": 4, "I32": 4, "U64": 8}


_KIND = FileKind("is no token sample", METADATA, VERSION, "--keep-sample")


class LayerTokens(NamedTuple):
    """What the sampled tokens brought to one layer; see the top of this file."""

    inputs: NDArray[np.uint16]
    scores: NDArray[np.float32]
    experts: NDArray[np.int16]
    gates: NDArray[np.float32]


@dataclass(frozen=True)
class SampleDescription:
    """Whose sample it is, and how it was drawn.

    `tokens` were asked for, shared evenly by the `categories`; `made_from` says which statistics
    it belongs to (`origin_of`); `skip_bad` that tokens which became NaN were left out.
    """

    tokens: int
    seed: int
    categories: tuple[str, ...]
    layers: tuple[int, ...]
    sizes: tuple[int, int, int]
    """H, E, K"""
    skip_bad: bool
    made_from: Mapping[str, Any]

    def shapes(self, tokens: int) -> dict[str, tuple[int, int]]:
        """{array: shape} of a layer with so many sampled tokens."""
        hidden, experts, top_k = self.sizes
        columns = {"inputs": hidden, "scores": experts, "experts": top_k, "gates": top_k}
        return {name: (tokens, size) for name, size in columns.items()}


def sample_path(statistics: Path) -> Path:
    """Where the sample of a statistics file lies: stats.safetensors, stats.sample.safetensors."""
    return statistics.with_name(f"{statistics.stem}.sample{statistics.suffix}")


def origin_of(statistics: Statistics) -> dict[str, Any]:
    """What ties a sample to its statistics: the model, and the text it ran."""
    corpora = sorted(str(corpus.get("sha256")) for corpus in statistics.corpora)
    return {
        "model": statistics.model["identity"],
        "corpora": corpora,
        "shards": [list(shard) for shard in statistics.shards],
    }


@contextmanager
def write_sample(
    path: Path, description: SampleDescription, keys: TokenKeys, begun: int | None = None
) -> Iterator[Callable[[LayerTokens], None]]:
    """A function that adds the layers, in the order of `description.layers`.

    The file is complete when the block ends without an error, or absent; with `begun` it stays in
    any case, and has so many layers of an earlier run, after which it goes on. Raises WriteError.
    """
    header = _Header(description, len(keys.hash))
    resumes = begun is not None
    with (
        nullcontext(path) if resumes else atomic_path(path) as target,
        target.open("r+b" if begun else "w+b") as file,
    ):
        if begun:
            header.resume(file, path, begun)
        else:
            header.hashes["keys"] = hash_arrays(keys._asdict().items())
            header.write(file)
            for column in keys:
                file.write(np.ascontiguousarray(column).data)
        written = begun or 0

        def add(tokens: LayerTokens) -> None:
            nonlocal written
            for array in tokens:
                file.write(np.ascontiguousarray(array).data)
            header.hashes[str(description.layers[written])] = hash_arrays(tokens._asdict().items())
            header.write(file)
            file.flush()
            written += 1

        yield add
        if written != len(description.layers):
            raise ValueError(f"{written} of {len(description.layers)} layers were written")


class _Header:
    """The header of a sample file of so many tokens, whose size does not depend on the `hashes` in
    it: of the keys, and of each layer that is written."""

    def __init__(self, description: SampleDescription, tokens: int) -> None:
        self._description = asdict(description)
        self.hashes = dict.fromkeys(["keys", *map(str, description.layers)], "0" * 64)
        self._ends: list[int] = []
        self._arrays: dict[str, Any] = {}
        end = 0
        for name, kind, shape in _list_arrays(description, tokens):
            start, end = end, end + math.prod(shape) * _BYTES[kind]
            self._arrays[name] = {
                "dtype": kind, "shape": list(shape), "data_offsets": [start, end]
            }  # fmt: skip
            self._ends.append(end)

    def write(self, file: BinaryIO) -> None:
        """Write it at the beginning of the file, and go back to where the file was, behind it."""
        at = file.tell()
        file.seek(0)
        file.write(self._bytes())
        file.seek(max(at, file.tell()))

    def resume(self, file: BinaryIO, path: Path, layers: int) -> None:
        """Go on behind the first layers of a file. Raises StatisticsError when it has fewer."""
        own = self._bytes()
        end = len(own) + self._ends[len(_KEYS) + len(_TYPES) * layers - 1]
        if os.fstat(file.fileno()).st_size < end:
            raise StatisticsError(f"{path} is damaged: remove it, and calibrate again")
        found = json.loads(file.read(len(own))[8:])["__metadata__"]
        self.hashes = read_document(_KIND, found)["hashes"]
        file.truncate(end)
        file.seek(end)

    def _bytes(self) -> bytes:
        metadata = describe(_KIND, {**self._description, "hashes": self.hashes})
        header = {"__metadata__": metadata, **self._arrays}
        return padded_header(json.dumps(header, sort_keys=True, ensure_ascii=False))


class SampleFile:
    """A sample on disk: its description and keys, and one layer when asked."""

    def __init__(self, path: Path) -> None:
        """Raises StatisticsError for a file that is missing, damaged or of another kind."""
        self.path = path
        with open_described(path, _KIND) as (file, data):
            self.keys = TokenKeys(*(file.get_tensor(f"token.{name}") for name in _KEYS))
            self._hashes: dict[str, str] = data.pop("hashes")
            if hash_arrays(self.keys._asdict().items()) != self._hashes["keys"]:
                raise ValueError("its keys were changed")
            fields: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in data.items()
            }
            self.description = SampleDescription(**fields)

    def layer(self, number: int) -> LayerTokens:
        """What the tokens brought to a MoE layer. Raises StatisticsError for a damaged file."""
        try:
            with safe_open(self.path, "np") as file:
                names = (f"layer.{number}.{name}" for name in _TYPES)
                found = LayerTokens(*(file.get_tensor(name) for name in names))
            if hash_arrays(found._asdict().items()) != self._hashes[str(number)]:
                raise ValueError("it was changed")
            return found
        except (OSError, SafetensorError, ValueError):
            raise StatisticsError(
                f"{self.path} cannot be read at layer {number}: it is damaged, calibrate again"
            ) from None

    def check_origin(self, statistics: Statistics, path: Path) -> None:
        """Raise StatisticsError unless this is the sample of the statistics at `path`."""
        if dict(self.description.made_from) != origin_of(statistics):
            raise StatisticsError(
                f"{self.path} is not the token sample of {path}, it was made with other "
                "statistics: put back the file that was written with them, or remove it"
            )


def merge_samples(parts: Sequence[SampleFile], merged: Statistics, path: Path) -> None:
    """Write the sample of merged statistics: the same as one pass over all of their text has.

    Raises StatisticsError when the samples were drawn with different seeds. Peak memory: one
    layer of all parts.
    """
    first = parts[0].description
    if len({part.description.seed for part in parts}) > 1:
        raise StatisticsError(
            "the token samples were drawn with different seeds and cannot be merged: calibrate "
            "again with one seed"
        )
    tokens = min(part.description.tokens for part in parts)
    description = SampleDescription(
        tokens=tokens,
        seed=first.seed,
        categories=merged.categories,
        layers=first.layers,
        sizes=first.sizes,
        skip_bad=any(part.description.skip_bad for part in parts),
        made_from=origin_of(merged),
    )
    keys = join_keys([_renumber(part, merged.categories) for part in parts])
    chosen = smallest(keys, share_of(tokens, len(merged.categories)))
    with write_sample(path, description, keys.take(chosen)) as add:
        for layer in description.layers:
            layers = [part.layer(layer) for part in parts]
            add(LayerTokens(*(np.concatenate(one)[chosen] for one in zip(*layers, strict=True))))


def _renumber(part: SampleFile, categories: Sequence[str]) -> TokenKeys:
    """A part's keys with the numbers that its categories have in the whole."""
    numbers = np.array([categories.index(name) for name in part.description.categories], np.int16)
    return part.keys._replace(category=numbers[part.keys.category])


def _list_arrays(
    description: SampleDescription, tokens: int
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(name, type, shape) of all arrays, in the order of the file."""
    for name, kind in _KEYS.items():
        yield f"token.{name}", kind, (tokens,)
    for layer in description.layers:
        for name, shape in description.shapes(tokens).items():
            yield f"layer.{layer}.{name}", _TYPES[name], shape
