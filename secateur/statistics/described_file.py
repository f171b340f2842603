"""Opening the safetensors files of ours that hold a JSON document in their metadata."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from secateur.errors import StatisticsError
from secateur.system import strict_json
from secateur.system.text_files import need_file


class FileKind(NamedTuple):
    """Where the document of a kind of file is, what another file is said to be, and the option
    that makes one."""

    other: str
    """As in "is no token sample"."""
    metadata: str
    version: int
    option: str


@contextmanager
def open_described(path: Path, kind: FileKind) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The open file and its document, without the version.

    Raises StatisticsError for a file that is missing, damaged, of another version or of another
    kind; what the block finds damaged (ValueError, KeyError, TypeError) is said in the same way.
    """
    try:
        need_file(path)
        with safe_open(path, "np") as file:
            data = strict_json.loads((file.metadata() or {})[kind.metadata])
            if data.pop("version") != kind.version:
                raise StatisticsError(
                    f"{path} was written by another version of secateur: calibrate again"
                )
            yield file, data
    except FileNotFoundError:
        raise StatisticsError(
            f"{path} does not exist: calibrate with {kind.option} to make it"
        ) from None
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError):
        raise StatisticsError(
            f"{path} {kind.other} of secateur, or is damaged: calibrate again with {kind.option}"
        ) from None
