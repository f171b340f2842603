"""The header of one safetensors file: written, and read strictly (what it claims is possible).

The format (safetensors 0.8): 8 bytes little-endian header length, that many bytes of JSON
mapping names to {dtype, shape, data_offsets}, then the data, contiguous and without gaps.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from secateur.checkpoint.tensors import STORAGE
from secateur.errors import CheckpointError
from secateur.system import strict_json
from secateur.system.text_files import open_file

HEADER_LIMIT = 100_000_000
"""Bytes; the same bound as safetensors' own reader."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor on disk. `offset` is absolute in `path`; `nbytes` is the data's length."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, index: int) -> TensorSpec:
        """The part at `index` of the first axis, which lies in one stretch."""
        size = self.nbytes // self.shape[0]
        return replace(self, shape=self.shape[1:], offset=self.offset + index * size, nbytes=size)


class Described(Protocol):
    """What a header says of a tensor."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...


def header_bytes(tensors: Iterable[Described], framework: str) -> bytes:
    """The header, its length before it, of a file with these tensors in this order.

    `framework` names the library whose layout the file has: `pt`, `mlx`.
    """
    header: dict[str, Any] = {"__metadata__": {"format": framework}}
    position = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.nbytes],
        }
        position += tensor.nbytes
    return padded_header(json.dumps(header, separators=(",", ":"), ensure_ascii=False))


def padded_header(text: str, room: int = 0) -> bytes:
    """A header's JSON as it stands in a file: its length before it, and blanks after, up to `room`
    bytes of text and the next multiple of 8."""
    content = text.encode().ljust(room)
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content


def framework_of(path: Path) -> str | None:
    """The library whose layout a file has (`pt`, `mlx`); None where the file does not say.

    For a file that `read_header` has accepted.
    """
    with open_file(path) as file:
        length = int.from_bytes(file.read(8), "little")
        header = strict_json.loads(file.read(length).decode("utf-8"))
    facts = header.get("__metadata__")
    word = facts.get("format") if isinstance(facts, dict) else None
    return None if word is None else str(word)


def read_header(path: Path) -> dict[str, TensorSpec]:
    """The tensors of one shard, in the order of their data.

    Raises CheckpointError for a file that is truncated, claims a header larger than itself,
    or holds tensors that overlap, leave gaps, or do not fit their type and shape.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(8)
            if len(head) < 8:
                raise _bad(path, f"is {size} bytes long, too short for a safetensors header")
            length = int.from_bytes(head, "little")
            if length > min(HEADER_LIMIT, size - 8):
                raise _bad(
                    path,
                    f"claims a header of {length} bytes, but the file has {size} "
                    f"(and the limit is {HEADER_LIMIT})",
                )
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read shard {path}: {error.strerror}") from None
    try:
        header: Any = strict_json.loads(raw.decode("utf-8"))
    except ValueError as error:
        raise _bad(path, f"has a header that is no valid JSON ({error})") from None
    if not isinstance(header, dict):
        raise _bad(path, "has a header that is no JSON object")
    header.pop("__metadata__", None)
    start = 8 + length
    specs = [_spec(path, name, entry, start) for name, entry in header.items()]
    specs.sort(key=lambda spec: (spec.offset, spec.nbytes))
    _check_cover(path, specs, start, size)
    return {spec.name: spec for spec in specs}


def _spec(path: Path, name: str, entry: Any, start: int) -> TensorSpec:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise _bad(
            path, f"describes tensor {name!r} without dtype, shape and two offsets"
        ) from None
    # bool is a subclass of int: a shape of `true` would pass as 1.
    whole = [*shape, begin, end] if isinstance(shape, list) else [None]
    if any(not isinstance(value, int) or isinstance(value, bool) or value < 0 for value in whole):
        raise _bad(path, f"has tensor {name!r} with a shape or offset that is no whole number")
    if not isinstance(dtype, str) or dtype not in STORAGE:
        raise CheckpointError(
            f"shard {path} has tensor {name!r} of type {dtype!r}, expected one of "
            f"{', '.join(STORAGE)}: dequantize the checkpoint to 16 bits first"
        )
    expected = math.prod(shape) * STORAGE[dtype].itemsize
    if end - begin != expected:
        raise _bad(
            path,
            f"gives tensor {name!r} {end - begin} bytes, but {dtype} {shape} takes {expected}",
        )
    return TensorSpec(name, dtype, tuple(shape), path, start + begin, expected)


def _check_cover(path: Path, specs: list[TensorSpec], start: int, size: int) -> None:
    position = start
    for spec in specs:
        if spec.offset < position:
            raise _bad(path, f"has tensor {spec.name!r} overlapping the one before it")
        if spec.offset > position:
            raise _bad(path, f"has a gap of {spec.offset - position} bytes before {spec.name!r}")
        position += spec.nbytes
    if position != size:
        last = specs[-1].name if specs else "the header"
        raise _bad(
            path,
            f"is {size} bytes long, but its tensors end at {position} (last: {last}): "
            + ("the file is truncated" if size < position else "there is data no tensor owns"),
        )


def _bad(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"shard {path} {what}: download it again")
