"""Files of one JSON object a line, read strictly."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from secateur.errors import CorpusError
from secateur.system.resources import free_memory
from secateur.system.sizes import show_bytes
from secateur.system.text_files import open_file

Record = Mapping[str, Any]


class JsonLines(NamedTuple):
    """The objects of a file, the line (from 1) of each, and the SHA-256 of the file."""

    records: tuple[Record, ...]
    lines: tuple[int, ...]
    sha256: str


def read_json_lines(path: Path) -> JsonLines:
    """Read a JSONL file; blank lines are skipped. Peak memory: the whole file, parsed.

    Raises CorpusError, naming file and line, when a line is not a JSON object in UTF-8.
    """
    content = read_bytes(path)
    records: list[Record] = []
    lines: list[int] = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            records.append(_parse_object(line, f"{path}:{number}"))
            lines.append(number)
    return JsonLines(tuple(records), tuple(lines), hashlib.sha256(content).hexdigest())


def read_bytes(path: Path) -> bytes:
    """A file's bytes. Raises CorpusError, naming it, when it cannot be read."""
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > (most := free_memory()):
                raise CorpusError(
                    f"{path} has {show_bytes(size)}, and {show_bytes(most)} of memory are free: "
                    "split it, and name the parts as sources of a mix"
                )
            return file.read()
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror}") from error


def _parse_object(line: bytes, where: str) -> Record:
    try:
        value = json.loads(line.decode(), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise CorpusError(f"{where}: not UTF-8 (byte {error.start + 1} of the line)") from error
    except json.JSONDecodeError as error:
        raise CorpusError(f"{where}: not JSON: {error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where}: not usable JSON: {error}") from error
    if not isinstance(value, dict):
        raise CorpusError(f"{where}: a JSON {type(value).__name__}, expected an object {{...}}")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number of JSON")
