"""The cache folder: what is kept there and under which names. Nothing else knows its layout.

    weight_hashes.json            the hashes of weight files (checkpoint.identity)
    IDENTITY/                     of one original, by the first 16 digits of its identity
        model.json                its name, for people
        held-out-KEY.jsonl        prompts that a corpus held out to be measured on
        answers-KEY.jsonl         its answers; .answers-KEY...partial: begun
        teacher-KEY.safetensors   the probabilities that it gave their tokens
        scores-KEY.safetensors    an artefact compared with them
        gram-KEY.safetensors      Gram matrices of the inputs of its linear layers
        original-KEY/             the original as a GGUF
        parts-KEY/                parts of a measurement that are not put together yet

A KEY is a hash of all that decides the content. What is read is touched, so that the time of the
last change of a file is that of its last use.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from secateur.errors import SecateurError
from secateur.system.atomic import write_text
from secateur.system.resources import cache_folder

WEIGHT_HASHES = "weight_hashes.json"
MODEL = "model.json"

Kind = Literal["prompts", "answers", "probabilities", "scores", "Gram matrices"]


class _Form(NamedTuple):
    prefix: str
    suffix: str


_FORMS: dict[Kind, _Form] = {
    "prompts": _Form("held-out-", ".jsonl"),
    "answers": _Form("answers-", ".jsonl"),
    "probabilities": _Form("teacher-", ".safetensors"),
    "scores": _Form("scores-", ".safetensors"),
    "Gram matrices": _Form("gram-", ".safetensors"),
}
_ORIGINAL = "original-"
_PARTS = "parts-"
_FOLDERS = {_ORIGINAL: "original as GGUF", _PARTS: "parts begun"}
_DIGITS = 16


@dataclass(frozen=True)
class Entry:
    """A file of the cache. `what` is a Kind, "answers begun", "original as GGUF", "parts begun",
    "weight hashes" or "other"; `used` the time of its last use in seconds since 1970; `model` the
    name of the original that it belongs to, or the first digits of its identity."""

    path: Path
    what: str
    model: str
    identity: str
    bytes: int
    used: float


def model_folder(identity: str) -> Path:
    """Where the answers, probabilities and scores of an original are kept."""
    return cache_folder() / identity[:_DIGITS]


def kept_file(folder: Path, kind: Kind, key: str) -> Path:
    """The file of a kind whose content `key` decides (a hash in hex)."""
    form = _FORMS[kind]
    return folder / f"{form.prefix}{key[:_DIGITS]}{form.suffix}"


def kept_files(folder: Path, kind: Kind) -> list[Path]:
    """All finished files of a kind in a folder, and in the folders below it."""
    form = _FORMS[kind]
    return sorted(folder.rglob(f"{form.prefix}*{form.suffix}")) if folder.is_dir() else []


def kept_original(folder: Path, key: str) -> Path:
    """The folder of the original's GGUF that `key` decides (a hash in hex)."""
    return folder / f"{_ORIGINAL}{key[:_DIGITS]}"


def parts_folder(folder: Path, key: str) -> Path:
    """The folder of the parts that `key` decides (a hash in hex)."""
    return folder / f"{_PARTS}{key[:_DIGITS]}"


def touch(path: Path) -> None:
    """Remember that a file was used now. A disk that refuses that is no reason to fail."""
    with suppress(OSError):
        os.utime(path)


def name_model(folder: Path, name: str) -> None:
    """Remember whose folder it is, for people. A disk that refuses that is no reason to fail."""
    text = json.dumps({"model": name}) + "\n"
    with suppress(OSError, SecateurError):
        if not (folder / MODEL).is_file() or (folder / MODEL).read_text("utf-8") != text:
            write_text(folder / MODEL, text)


def list_entries() -> tuple[Entry, ...]:
    """All files of the cache, by model; the folders' own `model.json` left out."""
    home = cache_folder()
    if not home.is_dir():
        return ()
    found: list[Entry] = []
    for path in sorted(home.iterdir()):
        if path.is_dir():
            found += _entries_of(path)
        else:
            what = "weight hashes" if path.name == WEIGHT_HASHES else "other"
            found.append(_entry(path, what, "", ""))
    return tuple(found)


def _entries_of(folder: Path) -> Iterator[Entry]:
    model = _name_of(folder)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MODEL:
            top = path.relative_to(folder).parts[0]
            what = next((word for at, word in _FOLDERS.items() if top.startswith(at)), None)
            what = what or _what(path.name)
            yield _entry(path, what, model, folder.name)


def _what(name: str) -> str:
    for kind, form in _FORMS.items():
        if name.startswith(form.prefix) and name.endswith(form.suffix):
            return kind
        if name.startswith(f".{form.prefix}"):
            return f"{kind} begun"
    return "other"


def _entry(path: Path, what: str, model: str, identity: str) -> Entry:
    try:
        found = path.stat()
    except OSError:  # it was removed meanwhile
        return Entry(path, what, model, identity, 0, 0.0)
    return Entry(path, what, model, identity, found.st_size, found.st_mtime)


def _name_of(folder: Path) -> str:
    try:
        return str(json.loads((folder / MODEL).read_text("utf-8"))["model"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return folder.name
