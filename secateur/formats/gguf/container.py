"""The nouns of a GGUF file (version 3) and its layout, which is known before any data is.

    magic, version, tensor count, key count | key-values | tensor infos | pad | tensors, each padded

Shapes here are in row-major (Hugging Face) order; a file stores them reversed, as ggml counts.
Source: llama.cpp's ggml/src/gguf.cpp and docs/gguf.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from secateur.errors import FormatError
from secateur.formats.ggml.types import bytes_of, ggml_type

MAGIC = b"GGUF"
VERSION = 3
DEFAULT_ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"

MAX_DIMENSIONS = 4
MAX_NAME_BYTES = 63
"""Limits of ggml itself (GGML_MAX_DIMS, GGML_MAX_NAME with its final zero)."""

SCALARS: dict[str, tuple[int, struct.Struct]] = {
    "u8": (0, struct.Struct("<B")),
    "i8": (1, struct.Struct("<b")),
    "u16": (2, struct.Struct("<H")),
    "i16": (3, struct.Struct("<h")),
    "u32": (4, struct.Struct("<I")),
    "i32": (5, struct.Struct("<i")),
    "f32": (6, struct.Struct("<f")),
    "bool": (7, struct.Struct("<?")),
    "u64": (10, struct.Struct("<Q")),
    "i64": (11, struct.Struct("<q")),
    "f64": (12, struct.Struct("<d")),
}
"""Kinds of fixed-width values: their number in a file, and their bytes."""

STRING = "string"
STRING_ID = 8
ARRAY_ID = 9

KINDS_BY_ID: dict[int, str] = {
    **{number: kind for kind, (number, _) in SCALARS.items()},
    STRING_ID: STRING,
}

_COUNTS, _ARRAY, _KIND = struct.Struct("<IQQ"), struct.Struct("<IIQ"), struct.Struct("<I")

Scalar = bool | int | float | str

_FITS: dict[str, type | tuple[type, ...]] = {
    STRING: str,
    "bool": bool,
    "f32": (int, float),
    "f64": (int, float),
}


@dataclass(frozen=True, slots=True)
class Value:
    """A metadata value of one kind ("u32", "f32", "bool", "string", ...); a tuple is an array."""

    kind: str
    value: Scalar | tuple[Scalar, ...]


Metadata = Mapping[str, Value]
"""Keys and values in the order of the file."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a GGUF file: its name, ggml type, and shape in row-major order."""

    name: str
    type: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its data, without padding. Raises FormatError if rows do not divide."""
        return bytes_of(self.type, self.shape, self.name)


def alignment_of(metadata: Metadata) -> int:
    """The file's alignment in bytes. Raises FormatError unless it is a power of two."""
    value = metadata.get(ALIGNMENT_KEY, Value("u32", DEFAULT_ALIGNMENT))
    alignment = value.value
    if value.kind != "u32" or not isinstance(alignment, int) or alignment.bit_count() != 1:
        raise FormatError(f"{ALIGNMENT_KEY} is {alignment!r}, expected a power of two as u32")
    return alignment


def padded(count: int, alignment: int) -> int:
    """`count` rounded up to a multiple of `alignment`."""
    return -(-count // alignment) * alignment


def metadata_bytes(metadata: Metadata) -> int:
    """Exact bytes of the key-values. Raises FormatError as `header_parts` does.

    A tokenizer's arrays are measured, not made: that is what makes a large one quick to plan.
    """
    return sum(_bytes_of_string(key) + _value_bytes(key, v) for key, v in metadata.items())


def header_bytes(metadata: Metadata, infos: Sequence[TensorInfo]) -> int:
    """Exact bytes before the first tensor's data, padding included."""
    return file_bytes(metadata, infos) - sum(
        padded(info.nbytes, alignment_of(metadata)) for info in infos
    )


def file_bytes(metadata: Metadata, infos: Sequence[TensorInfo], *, further: int = 0) -> int:
    """Exact bytes of the whole file, known without its data.

    `further` are bytes of more key-values, of which only the size is known.
    """
    alignment = alignment_of(metadata)
    size = len(MAGIC) + _COUNTS.size + metadata_bytes(metadata) + further
    size += sum(len(part) for part in _info_parts(metadata, infos))
    data = sum(padded(info.nbytes, alignment) for info in infos)
    return (padded(size, alignment) if infos else size) + data


def header_parts(metadata: Metadata, infos: Sequence[TensorInfo]) -> Iterator[bytes]:
    """The header's bytes in pieces, without the padding that follows it.

    Raises FormatError for what llama.cpp would refuse: a value outside its kind, an empty key,
    a name of 64 bytes and more or used twice, more than four axes.
    """
    yield MAGIC + _COUNTS.pack(VERSION, len(infos), len(metadata))
    for key, value in metadata.items():
        _check_key(key, value)
        yield _string(key)
        yield from _value_parts(key, value)
    yield from _info_parts(metadata, infos)


def _info_parts(metadata: Metadata, infos: Sequence[TensorInfo]) -> Iterator[bytes]:
    alignment = alignment_of(metadata)
    offset = 0
    seen: set[str] = set()
    for info in infos:
        check_info(info, seen)
        yield _string(info.name)
        yield struct.pack(
            f"<I{len(info.shape)}QIQ",
            len(info.shape),
            *reversed(info.shape),
            ggml_type(info.type).id,
            offset,
        )
        offset += padded(info.nbytes, alignment)


def check_info(info: TensorInfo, seen: set[str]) -> None:
    """Refuse a tensor that ggml cannot name or shape; remember its name in `seen`."""
    if len(info.name.encode()) > MAX_NAME_BYTES:
        raise FormatError(f"tensor name {info.name!r} is over {MAX_NAME_BYTES} bytes long")
    if info.name in seen:
        raise FormatError(f"tensor {info.name!r} occurs twice")
    seen.add(info.name)
    if not 1 <= len(info.shape) <= MAX_DIMENSIONS or min(info.shape) < 1:
        raise FormatError(
            f"tensor {info.name!r} has shape {list(info.shape)}, expected 1 to "
            f"{MAX_DIMENSIONS} axes of at least one element"
        )


def _check_key(key: str, value: Value) -> None:
    if not key:
        raise FormatError("a metadata key is empty")
    if value.kind != STRING and value.kind not in SCALARS:
        raise FormatError(f"{key}: unknown kind {value.kind!r}, known are {[*SCALARS, STRING]}")


def _value_parts(key: str, value: Value) -> Iterator[bytes]:
    number = STRING_ID if value.kind == STRING else SCALARS[value.kind][0]
    items = value.value if isinstance(value.value, tuple) else (value.value,)
    if isinstance(value.value, tuple):
        yield _ARRAY.pack(ARRAY_ID, number, len(items))
    else:
        yield _KIND.pack(number)
    if value.kind == STRING:
        yield from map(_string, _strings(key, items))
    else:
        yield _numbers(key, value.kind, items)


def _value_bytes(key: str, value: Value) -> int:
    """The bytes that `_value_parts` would make, after the same checks."""
    _check_key(key, value)
    items = value.value if isinstance(value.value, tuple) else (value.value,)
    head = _ARRAY.size if isinstance(value.value, tuple) else _KIND.size
    if value.kind == STRING:
        return head + sum(map(_bytes_of_string, _strings(key, items)))
    return head + len(_numbers(key, value.kind, items))


def _strings(key: str, items: tuple[Scalar, ...]) -> list[str]:
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) != len(items):
        odd = next(item for item in items if not isinstance(item, str))
        raise FormatError(f"{key}: {odd!r} is no {STRING}")
    return texts


def _numbers(key: str, kind: str, items: tuple[Scalar, ...]) -> bytes:
    for item in items:
        if not isinstance(item, _FITS.get(kind, int)) or isinstance(item, bool) != (kind == "bool"):
            raise FormatError(f"{key}: {item!r} is no {kind}")
    letter = SCALARS[kind][1].format[1:]
    try:
        return struct.pack(f"<{len(items)}{letter}", *items)
    except (struct.error, OverflowError) as error:
        shown = repr(items[0] if len(items) == 1 else items)
        raise FormatError(f"{key}: {shown:.60} does not fit into {kind}") from error


def _bytes_of_string(text: str) -> int:
    return 8 + (len(text) if text.isascii() else len(text.encode()))


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
