"""llama.cpp's older importance matrix, the .dat form: means only, little-endian.

    i32 entries
    entry by entry, sorted by name:  i32 length, name | i32 chunks, i32 values | f32 values
    i32 chunk count | i32 length, name of the data set          (may be missing)

A value is the mean of squared inputs times the entry's chunks; the shape and the tokens of single
experts are lost. Where an expert had no data its means are all exactly 1.
Source: llama.cpp's tools/imatrix/imatrix.cpp and common/imatrix-loader.cpp.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secateur.errors import FormatError
from secateur.formats.imatrix.matrix import Imatrix, ImatrixEntry, check_sums, find_layer
from secateur.system.atomic import write_bytes
from secateur.system.sizes import show_count
from secateur.system.text_files import read_bytes

CHUNK_SIZE = 512
"""Tokens of a chunk where a file does not say: llama-imatrix's own default."""

_STACK = re.compile(r"_exps\.")
_MAX_NAME = 1 << 10
_LARGEST = 8 << 30
"""Bytes at most; that of a model of 600 billion parameters has 1 GiB."""


def read_dat(path: Path) -> Imatrix:
    """Read the .dat form. Its `chunk_size` is 0: the counts are chunks, not tokens.

    Stacks of experts are flat, one matrix of all their inputs: see `split_stacks`. Raises
    FormatError for a file that is cut short, goes on after its end, or holds numbers that are no
    sums.
    """
    cursor = _Cursor(path, read_bytes(path, "an importance matrix", FormatError, _LARGEST))
    number = cursor.integer("the number of entries")
    if number < 1:
        raise FormatError(f"{path}: says it has {number} entries: it is no importance matrix")
    entries: dict[str, ImatrixEntry] = {}
    for index in range(number):
        name = cursor.text(f"the name of entry {index}")
        if not name or name in entries:
            raise FormatError(f"{path}: entry {index} has the name {name!r}, empty or used before")
        chunks, values = (cursor.integer(f"{what} of {name}") for what in ("chunks", "the size"))
        if chunks < 0 or values < 1:
            raise FormatError(
                f"{path}: {name} has {show_count(values, 'value')} of {show_count(chunks, 'chunk')}"
            )
        entries[name] = ImatrixEntry(
            cursor.floats(values, name)[None], np.array([max(chunks, 1)], np.float32)
        )
        check_sums(path, name, entries[name])
    count = cursor.integer("the number of chunks") if cursor.left() else 0
    dataset = cursor.text("the name of the data set") if cursor.left() else ""
    if cursor.left():
        raise FormatError(f"{path}: {cursor.left()} bytes follow the end of the last entry")
    return Imatrix((dataset,) if dataset else (), max(count, 0), 0, entries)


def write_dat(path: Path, imatrix: Imatrix) -> int:
    """Write as `llama-imatrix --output-format dat` does, byte for byte; returns the bytes.

    Entries without any data are left out. Raises FormatError when nothing is left.
    """
    kept = {name: e for name, e in sorted(imatrix.entries.items()) if (e.counts > 0).any()}
    if not kept:
        raise FormatError(f"{path}: no entry has any data, so there is nothing to write")
    parts = [struct.pack("<i", len(kept))]
    for name, entry in kept.items():
        chunks = -(-int(np.rint(entry.counts.max())) // max(imatrix.chunk_size, 1))
        values = (entry.means() * np.float32(chunks)).astype("<f4")
        parts += [_pack_text(name), struct.pack("<ii", chunks, values.size), values.tobytes()]
    parts += [struct.pack("<i", imatrix.chunk_count), _pack_text((imatrix.datasets or ("",))[-1])]
    data = b"".join(parts)
    write_bytes(path, data)
    return len(data)


def count_in_tokens(imatrix: Imatrix, chunk_size: int = CHUNK_SIZE) -> Imatrix:
    """Sums and counts of a .dat as if every chunk had been `chunk_size` tokens.

    What the GGUF form says; llama-imatrix multiplies likewise. The means stay what they were.
    An imatrix that has counts in tokens is returned as it is.
    """
    if imatrix.chunk_size:
        return imatrix
    scale = np.float32(chunk_size)
    entries = {
        name: ImatrixEntry(entry.in_sum2 * scale, entry.counts * scale)
        for name, entry in imatrix.entries.items()
    }
    return replace(imatrix, chunk_size=chunk_size, entries=entries)


def split_stacks(imatrix: Imatrix, experts: int | None = None) -> Imatrix:
    """Flat stacks of experts as one matrix per expert.

    A GGUF that llama-imatrix made from a .dat has flat stacks too. Their number of experts
    follows from the router, which reads the same inputs as the first stack of its layer; without
    one it is `experts`. An expert whose means are all exactly 1 had no data, and gets none. Raises
    FormatError when the number of experts is not known or does not divide a stack.
    """
    flat = [
        name
        for name, entry in imatrix.entries.items()
        if _STACK.search(name) and entry.counts.size == 1
    ]
    if not flat:
        return imatrix
    entries = dict(imatrix.entries)
    for name in flat:
        number = _count_experts(imatrix.entries, name) or experts
        if not number:
            raise FormatError(
                f"{name} is a stack of experts, of which the .dat form has lost the number: "
                "say it with --experts-in-file"
            )
        entries[name] = _split(name, entries[name], number)
    return replace(imatrix, entries=entries)


def _count_experts(entries: Mapping[str, ImatrixEntry], stack: str) -> int | None:
    """Experts of a flat stack, by the router of its layer; None without one."""
    layer = find_layer(stack)
    router = entries.get(f"blk.{layer}.ffn_gate_inp.weight")
    for part in ("gate_up", "gate", "up"):
        first = entries.get(f"blk.{layer}.ffn_{part}_exps.weight")
        if router is not None and first is not None and first.counts.size == 1:
            number, rest = divmod(first.in_sum2.size, router.in_sum2.size)
            if not rest:
                return number
    return None


def _split(name: str, entry: ImatrixEntry, experts: int) -> ImatrixEntry:
    if entry.in_sum2.size % experts:
        raise FormatError(
            f"{name} has {entry.in_sum2.size} values, which {experts} experts do not divide: "
            "the importance matrix is of another model"
        )
    sums = entry.in_sum2.reshape(experts, -1)
    seen = (sums != entry.counts).any(1)
    counts = np.where(seen, entry.counts, np.float32(0)).astype(np.float32)
    return ImatrixEntry(np.where(seen[:, None], sums, np.float32(0)), counts)


def _pack_text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<i", len(raw)) + raw


class _Cursor:
    """A position in a file's bytes that refuses to run past their end."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._data, self._at = path, data, 0

    def left(self) -> int:
        return len(self._data) - self._at

    def integer(self, what: str) -> int:
        return int(struct.unpack("<i", self._take(4, what))[0])

    def text(self, what: str) -> str:
        length = self.integer(f"the length of {what}")
        if not 0 <= length <= _MAX_NAME:
            raise FormatError(
                f"{self._path}: {what} would be {length} bytes long: this is no importance matrix"
            )
        try:
            return self._take(length, what).decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"{self._path}: {what} is not UTF-8 text: {error}") from error

    def floats(self, count: int, what: str) -> NDArray[np.float32]:
        return np.frombuffer(self._take(4 * count, what), "<f4").astype(np.float32)

    def _take(self, size: int, what: str) -> bytes:
        if size > self.left():
            raise FormatError(
                f"{self._path}: {what} at byte {self._at} needs {size} bytes, {self.left()} are "
                "left: the file is cut short, or is no importance matrix"
            )
        self._at += size
        return self._data[self._at - size : self._at]
