"""Which build of which engine answers, with what template and settings: what a run lock holds."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from secateur.errors import EngineError


@dataclass(frozen=True)
class ServerIdentity:
    """What decides answers besides the model's bytes and the request.

    `engine` is its name, `package` and `version` where it comes from, `library_sha256` the hash of
    the code that computes: llama.cpp in xllamacpp does not know its own commit. `template_sha256`
    is of the chat template that the server uses, None where it does not say. `context` is tokens
    per slot. `flags` are the settings, as they were checked against the server's own answer.
    """

    engine: str
    package: str
    version: str
    library_sha256: str
    template_sha256: str | None
    context: int | None
    slots: int
    flags: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON, of which a lock takes the hash."""
        return asdict(self)


def hash_library(package: str, file: str) -> tuple[str, str]:
    """(version, sha256) of an installed package and its file that computes, such as a `.so`.

    `file` is a pattern in the package's folder. Raises EngineError when it is not installed.
    """
    found = importlib.util.find_spec(package.replace("-", "_"))
    folders = (found and found.submodule_search_locations) or []
    files = sorted(path for folder in folders for path in Path(folder).glob(file))
    if not files:
        raise EngineError(f"{package} is not installed here: pip install {package}")
    return metadata.version(package), hash_file(files[0])


def hash_file(path: Path) -> str:
    """sha256 of a file, read once per process and change."""
    return _hash(path, path.stat().st_mtime_ns)


@cache
def _hash(path: Path, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_text(text: str) -> str:
    """sha256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
