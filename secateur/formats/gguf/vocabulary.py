"""How large a tokenizer's keys are in a GGUF, measured in a file that holds them.

llama.cpp ships vocabularies as GGUF files without tensors. To know the size of a model's file, one
need not read a quarter of a million tokens: the header is walked over, string by string.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from secateur.errors import FormatError
from secateur.formats.gguf.container import (
    ARRAY_ID,
    KINDS_BY_ID,
    MAGIC,
    SCALARS,
    STRING,
    STRING_ID,
    VERSION,
)
from secateur.system.text_files import open_file

_LENGTH = struct.Struct("<Q")
_KIND = struct.Struct("<I")
_ARRAY = struct.Struct("<IQ")
_HEAD = struct.Struct("<IQQ")
_MOST_KEYS, _MOST_TOKENS = 1 << 16, 1 << 23
"""As for `reader.py`: more keys, or items of an array, has no model."""
_TOKENIZER = "tokenizer."
_TOKENS = "tokenizer.ggml.tokens"
_MODEL = "tokenizer.ggml.model"
_SAMPLING = "general.sampling."


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer of a GGUF file: its size only.

    `model` is llama.cpp's name for its kind, `tokens` how many there are, `nbytes` the bytes of
    all its keys and values, `sampling` those of the default sampling in the same file.
    """

    path: Path
    model: str
    tokens: int
    nbytes: int
    sampling: int


def read_vocabulary(path: Path) -> Vocabulary:
    """Measure the tokenizer of a GGUF file. Raises FormatError for a file that has none."""
    try:
        with open_file(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return _measure(path, view)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read as GGUF: {error.strerror}") from None
    except ValueError:
        raise FormatError(f"{path}: is empty or a pipe, expected GGUF") from None
    except (struct.error, OverflowError):
        raise FormatError(f"{path}: is cut short inside its header: download it again") from None


def _measure(path: Path, view: mmap.mmap) -> Vocabulary:
    if view[:4] != MAGIC or _KIND.unpack_from(view, 4)[0] != VERSION:
        raise FormatError(f"{path}: is no GGUF of version {VERSION}")
    _, _, keys = _HEAD.unpack_from(view, 4)
    at = 4 + _HEAD.size
    if keys > _MOST_KEYS:
        raise FormatError(f"{path}: {keys} keys, at most {_MOST_KEYS} exist")
    spans: dict[str, tuple[int, int, int]] = {}  # key -> start, value, end
    for _ in range(keys):
        start = at
        at = _after_string(view, at)
        key = view[start + _LENGTH.size : at].decode("utf-8", "replace")
        value, at = at, _after_value(path, view, at)
        if at > len(view):
            raise FormatError(f"{path}: ends inside {key}: download it again")
        spans[key] = (start, value, at)
    if _TOKENS not in spans or _MODEL not in spans:
        raise FormatError(f"{path}: holds no tokenizer (no {_TOKENS}): name another --tokenizer")
    _, value, end = spans[_MODEL]
    return Vocabulary(
        path,
        model=view[value + _KIND.size + _LENGTH.size : end].decode("utf-8", "replace"),
        tokens=_ARRAY.unpack_from(view, spans[_TOKENS][1] + _KIND.size)[1],
        nbytes=_total(spans, _TOKENIZER),
        sampling=_total(spans, _SAMPLING),
    )


def _total(spans: Mapping[str, tuple[int, int, int]], prefix: str) -> int:
    return sum(end - start for key, (start, _, end) in spans.items() if key.startswith(prefix))


def _after_value(path: Path, view: mmap.mmap, at: int) -> int:
    """The offset after a value that starts at `at` with its kind."""
    (kind,) = _KIND.unpack_from(view, at)
    at += _KIND.size
    if kind == STRING_ID:
        return _after_string(view, at)
    if kind != ARRAY_ID:
        return at + _width(path, kind)
    kind, count = _ARRAY.unpack_from(view, at)
    at += _ARRAY.size
    if kind != STRING_ID:
        return at + int(count) * _width(path, kind)
    if count > _MOST_TOKENS:
        raise FormatError(f"{path}: an array of {count} texts, at most {_MOST_TOKENS} exist")
    unpack, step = _LENGTH.unpack_from, _LENGTH.size
    for _ in range(count):
        at += step + unpack(view, at)[0]
    return at


def _after_string(view: mmap.mmap, at: int) -> int:
    return at + _LENGTH.size + int(_LENGTH.unpack_from(view, at)[0])


def _width(path: Path, kind: int) -> int:
    name = KINDS_BY_ID.get(kind)
    if name is None or name == STRING:
        raise FormatError(f"{path}: a value has the unknown kind {kind}")
    return SCALARS[name][1].size
