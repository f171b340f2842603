"""A GGUF in several files, as llama-gguf-split cuts it: whole tensors, the keys in the first file.

Source: llama.cpp's tools/gguf-split, llama_split_path, and what its loader checks. Beyond what
llama-gguf-split writes, every part of ours names the plan that it was made by, so that a part
of another run is recognised even where it holds the same tensors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from secateur.errors import FormatError
from secateur.formats.gguf.container import Metadata, TensorInfo, Value, alignment_of, padded
from secateur.formats.gguf.provenance import PLAN_SHA256
from secateur.formats.gguf.reader import GgufFile, read_gguf

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


class PartName(NamedTuple):
    """What the name of a part says: it is the `number`-th, from 1, of `total` files of `stem`."""

    stem: str
    number: int
    total: int

    @property
    def file(self) -> str:
        """The name, by which llama.cpp finds the other parts."""
        return f"{self.stem}-{self.number:05d}-of-{self.total:05d}.gguf"


def part_name(file: str) -> PartName | None:
    """What a file's name, path or URL says; None when it is not that of a part."""
    found = _PART.search(file)
    return found and PartName(file[: found.start()], int(found[1]), int(found[2]))


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
    made_by = {key: value for key, value in metadata.items() if key == PLAN_SHA256}
    return tuple(
        GgufPart(
            PartName(stem, number + 1, len(bounds)).file,
            {
                **(metadata if number == 0 else made_by),
                "split.no": Value("u16", number),
                "split.tensors.count": Value("i32", len(infos)),
                "split.count": Value("u16", len(bounds)),
            },
            first,
            last,
        )
        for number, (first, last) in enumerate(zip(bounds, ends, strict=True))
    )


def read_every_part(path: Path) -> tuple[GgufFile, ...]:
    """The headers of all parts of a split file, which is named by its first; of another, its own.

    Raises FormatError as `read_gguf` does, when a part is missing or is not named as llama.cpp
    expects, and for one that belongs to another file.
    """
    first = read_gguf(path)
    count = _number(first, "split.count")
    if count < 2:
        return (first,)
    name = part_name(path.name)
    if name is None or name.total != count or name.number != _number(first, "split.no") + 1:
        raise FormatError(
            f"{path} is part {_number(first, 'split.no') + 1} of {count}, which must be in its "
            f"name, as in {PartName('NAME', 1, count).file}: llama.cpp finds the others by it"
        )
    files = [path.with_name(name._replace(number=one).file) for one in range(1, count + 1)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise FormatError(
            f"{path} is one of {count} parts, and next to it there is no {', '.join(missing)}: "
            "put all parts into one folder"
        )
    if name.number != 1:
        raise FormatError(
            f"{path} is part {name.number} of {count}: name the first, {files[0].name}"
        )
    parts = (first, *map(read_gguf, files[1:]))
    for number, part in enumerate(parts):
        _check_part(part, number, first)
    held = len(joined(parts).tensors)
    if held != first.value("split.tensors.count"):
        raise FormatError(
            f"{path} says that its {count} parts hold {first.value('split.tensors.count')} "
            f"tensors, but they hold {held}: they belong to different files; make them again"
        )
    return parts


def joined(parts: Sequence[GgufFile]) -> GgufFile:
    """Parts as one file: the first one's keys, everyone's tensors; the lengths are the first's.

    Raises FormatError for a tensor that two parts hold.
    """
    seen: set[str] = set()
    for part in parts:
        if twice := next((name for name in part.tensors if name in seen), None):
            raise FormatError(f"{part.path}: tensor {twice!r} is in another part already")
        seen |= part.tensors.keys()
    return replace(
        parts[0],
        tensors={name: info for part in parts for name, info in part.tensors.items()},
        offsets={name: offset for part in parts for name, offset in part.offsets.items()},
        elsewhere={name: part.path for part in parts[1:] for name in part.tensors},
    )


def _check_part(part: GgufFile, number: int, first: GgufFile) -> None:
    """Its number must be that of its name, and the keys that it repeats must be the first one's."""
    if _number(part, "split.no") != number:
        raise FormatError(
            f"{part.path} holds part {_number(part, 'split.no') + 1}, expected part {number + 1} "
            f"of {first.path.name}: it was renamed, or belongs to another file"
        )
    for key in (key for key in part.metadata if key in first.metadata and key != "split.no"):
        here, there = part.value(key), first.value(key)
        if here != there:
            raise FormatError(
                f"{part.path} has {key} {here!r}, but {first.path.name} has {there!r}: "
                "they belong to different files; take all parts of one"
            )


def _number(file: GgufFile, key: str) -> int:
    held = file.metadata.get(key)
    return held.value if held is not None and isinstance(held.value, int) else 0
