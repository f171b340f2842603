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
from secateur.formats.types import bytes_of, ggml_type

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


def header_bytes(metadata: Metadata, infos: Sequence[TensorInfo]) -> int:
    """Exact bytes before the first tensor's data, padding included."""
    size = sum(len(part) for part in header_parts(metadata, infos))
    return padded(size, alignment_of(metadata)) if infos else size


def file_bytes(metadata: Metadata, infos: Sequence[TensorInfo]) -> int:
    """Exact bytes of the whole file, known without its data."""
    alignment = alignment_of(metadata)
    data = sum(padded(info.nbytes, alignment) for info in infos)
    return header_bytes(metadata, infos) + data


def header_parts(metadata: Metadata, infos: Sequence[TensorInfo]) -> Iterator[bytes]:
    """The header's bytes in pieces, without the padding that follows it.

    Raises FormatError for what llama.cpp would refuse: a value outside its kind, an empty key,
    a name of 64 bytes and more or used twice, more than four axes.
    """
    yield MAGIC + struct.pack("<IQQ", VERSION, len(infos), len(metadata))
    for key, value in metadata.items():
        if not key:
            raise FormatError("a metadata key is empty")
        yield _string(key)
        yield from _value_parts(key, value)
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


def _value_parts(key: str, value: Value) -> Iterator[bytes]:
    if value.kind != STRING and value.kind not in SCALARS:
        raise FormatError(f"{key}: unknown kind {value.kind!r}, known are {[*SCALARS, STRING]}")
    number = STRING_ID if value.kind == STRING else SCALARS[value.kind][0]
    if isinstance(value.value, tuple):
        yield struct.pack("<IIQ", ARRAY_ID, number, len(value.value))
        for item in value.value:
            yield _scalar(key, value.kind, item)
    else:
        yield struct.pack("<I", number)
        yield _scalar(key, value.kind, value.value)


def _scalar(key: str, kind: str, value: Scalar) -> bytes:
    if not isinstance(value, _FITS.get(kind, int)) or isinstance(value, bool) != (kind == "bool"):
        raise FormatError(f"{key}: {value!r} is no {kind}")
    if isinstance(value, str):
        return _string(value)
    try:
        return SCALARS[kind][1].pack(value)
    except (struct.error, OverflowError) as error:
        raise FormatError(f"{key}: {value!r} does not fit into {kind}") from error


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
