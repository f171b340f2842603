"""Reading a GGUF file: its header, checked as strictly as llama.cpp does, and its tensors' bytes.

A count or length from the file is compared with the bytes that are left before it is used, so
a damaged or hostile header cannot make us allocate, and every refusal is a FormatError that
names the file. `read_header` takes the bytes of a header alone, wherever they came from.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secateur.errors import FormatError
from secateur.formats.ggml.types import TYPES_BY_ID
from secateur.formats.gguf.container import (
    ARRAY_ID,
    KINDS_BY_ID,
    MAGIC,
    MAX_DIMENSIONS,
    SCALARS,
    STRING,
    VERSION,
    Metadata,
    Scalar,
    TensorInfo,
    Value,
    alignment_of,
    check_info,
    padded,
)
from secateur.system.text_files import kind_of, open_file

_MIN_KEY_VALUE_BYTES = 8 + 1 + 4 + 1
_MIN_INFO_BYTES = 8 + 4 + 8 + 4 + 8

_MOST_KEYS, _MOST_TENSORS = 1 << 16, 1 << 20
_MOST_ITEMS = 1 << 23
"""Items of all arrays of a header at most; a vocabulary of 262,144 tokens with its scores, types
and merges has 1.5 million. What an item takes in memory is many times its bytes."""
_LONGEST_TEXT = 1 << 26
"""Bytes of one text at most."""


class HeaderCut(FormatError):
    """The bytes at hand end before the header does; the file itself has more."""


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The header of a GGUF file: metadata and tensors in file order, with absolute offsets."""

    path: Path
    metadata: Metadata
    tensors: Mapping[str, TensorInfo]
    offsets: Mapping[str, int]
    alignment: int
    data_offset: int
    end: int
    """Bytes up to the end of the last tensor, without the padding that may follow it."""
    elsewhere: Mapping[str, Path] = field(default_factory=dict)
    """The files of tensors that lie in another part of a split file (split.py)."""

    def value(self, key: str) -> Scalar | tuple[Scalar, ...]:
        """The value of a key. Raises FormatError if the file has no such key."""
        if key not in self.metadata:
            raise FormatError(f"{self.path}: no key {key!r} in its metadata")
        return self.metadata[key].value

    def tensor(self, name: str) -> TensorInfo:
        """The tensor's info. Raises FormatError if the file has no such tensor."""
        if name not in self.tensors:
            raise FormatError(f"{self.path}: no tensor {name!r} among its {len(self.tensors)}")
        return self.tensors[name]

    def data(self, name: str) -> NDArray[np.uint8]:
        """The tensor's encoded bytes, flat, as a read-only memory map."""
        info = self.tensor(name)
        path = self.elsewhere.get(name, self.path)
        return np.memmap(
            path, dtype=np.uint8, mode="r", offset=self.offsets[name], shape=(info.nbytes,)
        )


def read_gguf(path: Path) -> GgufFile:
    """Read and check the header; tensor data is not touched, but must be there in full.

    Raises FormatError for a file that is not GGUF version 3, is cut short, holds unknown types,
    names anything twice, or whose tensors overlap, leave gaps or are followed by other bytes.
    """
    with _name_path(path), _mapped(path) as view:
        found = _read(_Cursor(path, view, len(view)))
        _check_end(found, len(view))
        return found


def read_local_header(path: Path) -> tuple[GgufFile, int]:
    """(header, bytes of the file) of a local file, whose tensors may be missing.

    Raises FormatError as `read_gguf` does, but not for the file's length.
    """
    with _name_path(path), _mapped(path) as view:
        return _read(_Cursor(path, view, len(view))), len(view)


def read_header(path: Path, view: bytes, size: int | None) -> GgufFile:
    """The header in the first bytes of a file that lies elsewhere.

    `size` is the length of the whole file, None when nobody knows. Raises HeaderCut when `view`
    ends within the header though the file goes on, FormatError as `read_gguf` does.
    """
    with _name_path(path):
        return _read(_Cursor(path, view, size))


@contextmanager
def _name_path(path: Path) -> Iterator[None]:
    """Every error names the file."""
    try:
        yield
    except HeaderCut:
        raise
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from error


def _mapped(path: Path) -> mmap.mmap:
    with open_file(path) as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise FormatError("the file is empty, expected GGUF") from None


class _Cursor:
    """A position in a file that refuses to run past its end."""

    def __init__(self, path: Path, view: bytes | mmap.mmap, size: int | None) -> None:
        self.path = path
        self.view = view
        self.size = size
        self.at = 0
        self.items = 0

    def count(self, items: int, most: int, what: str) -> None:
        """Refuse a count that no model has, though the file may be large enough for it."""
        if items > most:
            raise FormatError(f"{what} at byte {self.at} has {items} items, at most {most} exist")

    def count_items(self, items: int, what: str) -> None:
        """Count the items of one more array."""
        self.items += items
        self.count(self.items, _MOST_ITEMS, what)

    def need(self, count: int, what: str) -> None:
        if self.size is not None and count > self.size - self.at:
            raise FormatError(
                f"{what} at byte {self.at} needs {count} bytes, "
                f"{self.size - self.at} are left: the file is cut short or damaged"
            )
        if count > len(self.view) - self.at:
            raise HeaderCut(f"{what} at byte {self.at} needs {count} bytes")

    def unpack(self, layout: str, what: str) -> tuple[int, ...]:
        size = struct.calcsize(layout)
        self.need(size, what)
        values = struct.unpack_from(layout, self.view, self.at)
        self.at += size
        return values

    def raw(self, count: int, what: str) -> bytes:
        self.need(count, what)
        self.at += count
        return self.view[self.at - count : self.at]

    def string(self, what: str) -> str:
        (length,) = self.unpack("<Q", what)
        self.need(length, what)
        if length > _LONGEST_TEXT:
            raise FormatError(f"{what} at byte {self.at} is {length} bytes long: no text is")
        try:
            return self.raw(length, what).decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"{what} is not UTF-8 text: {error}") from error


def _read(cursor: _Cursor) -> GgufFile:
    magic = cursor.raw(4, "the magic number")
    if magic != MAGIC:
        raise FormatError(
            f"is {kind_of(magic)} that does not begin with {MAGIC.decode()}: it is not GGUF"
        )
    (version,) = cursor.unpack("<I", "the version")
    if version != VERSION:
        raise FormatError(
            f"GGUF version {version}, expected {VERSION}: convert the model again "
            "with a current llama.cpp"
        )
    tensor_count, key_count = cursor.unpack("<QQ", "the counts")
    cursor.need(key_count * _MIN_KEY_VALUE_BYTES, f"a list of {key_count} keys")
    cursor.count(key_count, _MOST_KEYS, "the list of keys")
    metadata: dict[str, Value] = {}
    for _ in range(key_count):
        key = cursor.string("a key")
        if not key or key in metadata:
            raise FormatError(f"key {key!r} is empty or occurs twice")
        metadata[key] = _read_value(cursor, key)
    cursor.need(tensor_count * _MIN_INFO_BYTES, f"a list of {tensor_count} tensors")
    cursor.count(tensor_count, _MOST_TENSORS, "the list of tensors")
    infos: list[tuple[TensorInfo, int]] = []
    seen: set[str] = set()
    for _ in range(tensor_count):
        info, offset = _read_info(cursor)
        check_info(info, seen)
        infos.append((info, offset))
    alignment = alignment_of(metadata)
    data_offset = padded(cursor.at, alignment) if infos else cursor.at
    end = _check_layout(infos, alignment, data_offset)
    return GgufFile(
        path=cursor.path,
        metadata=metadata,
        tensors={info.name: info for info, _ in infos},
        offsets={info.name: data_offset + offset for info, offset in infos},
        alignment=alignment,
        data_offset=data_offset,
        end=end,
    )


def _read_value(cursor: _Cursor, key: str) -> Value:
    (number,) = cursor.unpack("<I", f"the kind of {key}")
    if number != ARRAY_ID:
        kind = _kind(cursor, key, number)
        if kind == STRING:
            return Value(kind, cursor.string(f"the value of {key}"))
        return Value(kind, _read_numbers(cursor, key, kind, 1)[0])
    number, count = cursor.unpack("<IQ", f"the array {key}")
    kind = _kind(cursor, key, number)
    if kind == STRING:
        cursor.need(8 * count, f"the array {key} of {count} strings")
        cursor.count_items(count, f"the array {key}")
        return Value(kind, tuple(cursor.string(f"an item of {key}") for _ in range(count)))
    return Value(kind, _read_numbers(cursor, key, kind, count))


def _kind(cursor: _Cursor, key: str, number: int) -> str:
    if number not in KINDS_BY_ID:
        raise FormatError(f"key {key!r} has the unknown kind {number}")
    return KINDS_BY_ID[number]


def _read_numbers(cursor: _Cursor, key: str, kind: str, count: int) -> tuple[Scalar, ...]:
    layout = SCALARS[kind][1]
    cursor.need(count * layout.size, f"{count} values of {key}")
    cursor.count_items(count, f"the array {key}")
    raw = cursor.raw(count * layout.size, f"{count} values of {key}")
    if kind == "bool" and raw.strip(b"\x00\x01"):
        raise FormatError(f"key {key!r} holds a boolean that is neither 0 nor 1")
    return tuple(item[0] for item in layout.iter_unpack(raw))


def _read_info(cursor: _Cursor) -> tuple[TensorInfo, int]:
    name = cursor.string("a tensor's name")
    (axes,) = cursor.unpack("<I", f"the axes of {name}")
    if axes > MAX_DIMENSIONS:
        raise FormatError(f"tensor {name!r} has {axes} axes, at most four exist")
    dimensions = cursor.unpack(f"<{axes}Q", f"the shape of {name}")
    number, offset = cursor.unpack("<IQ", f"the type of {name}")
    if number not in TYPES_BY_ID:
        raise FormatError(f"tensor {name!r} has the unknown ggml type {number}")
    return TensorInfo(name, TYPES_BY_ID[number].name, dimensions[::-1]), offset


def _check_layout(infos: list[tuple[TensorInfo, int]], alignment: int, data_offset: int) -> int:
    """Tensors must lie one after the other, padded. Returns where the last one ends."""
    expected, end = 0, data_offset
    for info, offset in infos:
        if offset != expected:
            raise FormatError(
                f"tensor {info.name!r} starts at {offset}, expected {expected}: "
                "tensors overlap or leave a gap"
            )
        end = data_offset + offset + info.nbytes
        expected += padded(info.nbytes, alignment)
    return end


def _check_end(found: GgufFile, size: int) -> None:
    """The file must end where its tensors do, padding of the last one included or not."""
    last = found.data_offset + padded(found.end - found.data_offset, found.alignment)
    if not found.end <= size <= last:
        raise FormatError(
            f"{size} bytes long, expected {found.end} to {last}: "
            "the file is cut short or has bytes after its last tensor"
        )
