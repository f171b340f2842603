"""A GGUF in several files, as llama-gguf-split cuts it: whole tensors, the keys in the first file.

Source: llama.cpp's tools/gguf-split and llama_split_path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.errors import FormatError
from secateur.formats.gguf import Metadata, TensorInfo, Value, alignment_of, padded

_UNITS = {"M": 10**6, "G": 10**9}


@dataclass(frozen=True)
class GgufPart:
    """One file: its name, its metadata, and which tensors, `first:last` of the whole, it holds."""

    file: str
    metadata: Metadata
    first: int
    last: int


def parts(
    file: str, metadata: Metadata, infos: Sequence[TensorInfo], limit: int | None
) -> tuple[GgufPart, ...]:
    """The files of a GGUF: one called `file`, or several of at most `limit` bytes of tensors.

    Raises FormatError when one tensor is larger than the limit.
    """
    bounds = [0]
    size = 0
    for number, info in enumerate(infos if limit is not None else ()):
        nbytes = padded(info.nbytes, alignment_of(metadata))
        assert limit is not None
        if nbytes > limit:
            raise FormatError(
                f"{file}: tensor {info.name!r} takes {nbytes} bytes, and files shall hold at most "
                f"{limit}: allow larger files"
            )
        if size + nbytes > limit:
            bounds.append(number)
            size = 0
        size += nbytes
    if len(bounds) == 1:
        return (GgufPart(file, metadata, 0, len(infos)),)
    ends = [*bounds[1:], len(infos)]
    stem = file.removesuffix(".gguf")
    return tuple(
        GgufPart(
            f"{stem}-{number + 1:05d}-of-{len(bounds):05d}.gguf",
            {
                **(metadata if number == 0 else {}),
                "split.no": Value("u16", number),
                "split.tensors.count": Value("i32", len(infos)),
                "split.count": Value("u16", len(bounds)),
            },
            first,
            last,
        )
        for number, (first, last) in enumerate(zip(bounds, ends, strict=True))
    )


def size_of(text: str) -> int:
    """Bytes of a size such as 500M or 5G, counted in thousands as llama-gguf-split does.

    Raises FormatError for anything else.
    """
    number, unit = text[:-1], text[-1:].upper()
    if unit not in _UNITS or not number.isdecimal() or not int(number):
        raise FormatError(f"size {text!r}: expected a number with M or G, such as 5G")
    return int(number) * _UNITS[unit]
