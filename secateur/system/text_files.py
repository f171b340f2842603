"""Files that a person names or a stranger wrote, read whole: text and JSON.

Any file may be given in place of any other, by mistake. What is read here is refused in one line
that says what the file is and what was expected; its content is never part of a message, and a
file that is far too large is refused before it is read.
"""

from __future__ import annotations

import errno
import os
import stat
from json import JSONDecodeError
from pathlib import Path
from typing import Any, BinaryIO

from secateur.errors import InputError
from secateur.system import strict_json

MIB = 1 << 20

LARGEST_TEXT = 256 * MIB
"""Bytes of a text file at most; the plan of 24 GGUF types of a large model has 20 MiB."""

LARGEST_JSON = 64 * MIB
"""Bytes of a JSON file at most: parsed it can take thirty times as much memory. The tokenizer of
Gemma 4 has 32 MiB, the index of the largest models 15."""

LARGEST_SETTINGS = 16 * MIB
"""Bytes of a file that people write by hand at most (YAML, TOML, lists of tensor types)."""

_MAGIC = {
    b"GGUF": "a GGUF file",
    b"\x89PNG": "a PNG image",
    b"PK\x03\x04": "a ZIP archive",
    b"\x80\x02": "a pickle",
    b"\x1f\x8b": "a gzip archive",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}


def open_file(path: Path) -> BinaryIO:
    """A file, open for reading bytes; waits for nobody.

    A pipe that nobody writes to is empty, instead of blocking for ever. Raises OSError, and for
    what has no end or no content of its own (a device, a folder, a socket) one that says so.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError:
        raise OSError(errno.EINVAL, "no file can have such a name") from None
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a device"
        raise OSError(errno.EINVAL, f"it is {kind}")
    os.set_blocking(descriptor, True)
    return open(descriptor, "rb")


def need_file(path: Path) -> None:
    """Raise OSError unless `open_file` can open it and it has content: for libraries that open
    files by name."""
    with open_file(path) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is a pipe")


def read_bytes(
    path: Path, expected: str, error: type[InputError], most: int = LARGEST_TEXT
) -> bytes:
    """All bytes of a file. `expected` says in messages what it should be: "a plan".

    Raises `error` when it cannot be read or has more than `most` bytes.
    """
    try:
        with open_file(path) as file:
            # A pipe has no size, so that it has to be read to be measured.
            size = os.fstat(file.fileno()).st_size
            content = _read(file, most + 1 if size <= most else 64)
    except OSError as found:
        raise error(f"cannot read {path}: {found.strerror}, expected {expected}") from None
    if max(size, len(content)) > most:
        raise error(
            f"{path} is {kind_of(content)} of more than {most // MIB} MiB, expected {expected}"
        )
    return content


def _read(file: BinaryIO, most: int) -> bytes:
    """At most so many bytes; a read of that many at once would take their memory at once."""
    pieces, left = [], most
    while left and (piece := file.read(min(left, 16 * MIB))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def read_text(path: Path, expected: str, error: type[InputError], most: int = LARGEST_TEXT) -> str:
    """The text of a file in UTF-8, line ends made newlines. Raises `error` as `read_bytes` does."""
    text = decode(read_bytes(path, expected, error, most), path, expected, error)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decode(content: bytes, path: Path, expected: str, error: type[InputError]) -> str:
    """The content of the file `path` as text, its line ends as they are. Raises `error`."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as found:
        kind = kind_of(content)
        if kind == "a file":
            kind = f"not UTF-8 text (byte {found.start + 1})"
        raise error(f"{path} is {kind}, expected {expected}") from None


def read_json(path: Path, expected: str, error: type[InputError], most: int = LARGEST_JSON) -> Any:
    """The content of a JSON file, no key given twice. Raises `error`, naming the line."""
    return parse_json(read_text(path, expected, error, most), str(path), expected, error)


def parse_json(text: str, where: str, expected: str, error: type[InputError]) -> Any:
    """The content of a JSON text, no key given twice. Raises `error`, naming `where`."""
    try:
        return strict_json.loads(text)
    except ValueError as found:
        kind = "empty" if not text.strip() else f"not usable JSON ({explain(found)})"
        raise error(f"{where} is {kind}, expected {expected}") from None


def kind_of(content: bytes) -> str:
    """What a file is by its first bytes; "a file" where they do not say."""
    for magic, kind in _MAGIC.items():
        if content.startswith(magic):
            return kind
    if content[8:10] == b'{"' and int.from_bytes(content[:8], "little") < 1 << 32:
        return "a safetensors file"
    return "a file"


def explain(error: Exception) -> str:
    """What is wrong with parsed content, in words; never the content or an exception's repr."""
    match error:
        case JSONDecodeError():
            return f"line {error.lineno}, column {error.colno}: {error.msg}"
        case UnicodeDecodeError():
            return f"byte {error.start + 1} is not UTF-8"
        case KeyError():
            return f"it lacks the key {str(error.args[0]):.60}"
        case TypeError() | AttributeError() | StopIteration() | IndexError():
            return "a value in it is of another kind than expected"
        case OSError():
            return error.strerror or "it cannot be read"
    return f"{' '.join(str(error).split()):.100}"
