"""What would go up: every file with its place in the repository, its bytes, hash and kind.

The manifest goes too. Where not all of the output goes, it lists what goes, so that `secateur
verify` finds the downloaded folder whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from secateur.checkpoint.model_card import MODEL_CARD
from secateur.planning.imatrix_policy import FILE as IMATRIX_FILE
from secateur.release.card.hub_terms import hub_terms
from secateur.release.card.scope import Scope
from secateur.release.evidence import FOLDER
from secateur.release.manifest import (
    MANIFEST,
    files_of_one_run,
    manifest_text,
    read_manifest,
    sha256_of,
)
from secateur.release.ollama.write import FILES as OLLAMA_FILES

LARGE = 10_000_000
"""From so many bytes on the Hub stores a file of any name as LFS."""

_QUESTIONS = f"{FOLDER}/tasks/"
"""Questions and answers: sets such as GPQA ask that theirs are not published."""


@dataclass(frozen=True)
class UploadFile:
    """A file as it will lie in the repository; `content` for what is no file of the output."""

    path: str
    source: Path
    size: int
    sha256: str
    kind: Literal["LFS", "regular"]
    content: bytes | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "path": self.path,
            "bytes": self.size,
            "sha256": self.sha256,
            "kind": self.kind,
        }


@dataclass(frozen=True)
class Bundle:
    """All files that go up, the card and the manifest last; `left` stay, by why they do."""

    files: tuple[UploadFile, ...]
    left: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(file.size for file in self.files)


def bundle_of(out: Path, scope: Scope, *, items: bool = False) -> Bundle:
    """What goes up of an output that was verified: the files of its manifest that belong to the
    outputs in `scope`, and those that tell of one run. `items` adds the questions of tasks.

    Raises OutputError when there is no manifest.
    """
    manifest = read_manifest(out)
    places: dict[str, str] = {}
    left: dict[str, str] = {}
    for name in manifest["files"]:
        why = _left_because(name, scope, items)
        if why is None:
            places[name] = scope.place_of(name)
        else:
            left[name] = why
    files = {
        place: _file(out / name, place, manifest["files"][name]["sha256"])
        for name, place in places.items()
    }
    for name in files_of_one_run(out):
        files[name] = _file(out / name, name, sha256_of(out / name))
    return Bundle(tuple(_in_order([*files.values(), _manifest(out, manifest, places)])), left)


def _left_because(name: str, scope: Scope, items: bool) -> str | None:
    """Why a file of the manifest stays; None: it goes."""
    if name.startswith(_QUESTIONS) and not items:
        return "questions and answers of tasks: --with-items sends them"
    if not scope.holds(name):
        return "of an output that is not released"
    if name in (*OLLAMA_FILES, IMATRIX_FILE) and not scope.of("gguf"):
        return "for the GGUF files"
    return None


def _file(path: Path, place: str, sha256: str) -> UploadFile:
    size = path.stat().st_size
    with path.open("rb") as file:
        is_text = b"\0" not in file.read(512)
    return UploadFile(place, path, size, sha256, _kind(place, size, is_text))


def _manifest(out: Path, manifest: Mapping[str, Any], places: Mapping[str, str]) -> UploadFile:
    """The manifest of what goes: the output's own where all of it goes."""
    files = manifest["files"]
    if dict(places) == {name: name for name in files}:
        return _file(out / MANIFEST, MANIFEST, sha256_of(out / MANIFEST))
    there = {place: files[name] for name, place in sorted(places.items(), key=lambda one: one[1])}
    content = manifest_text({**manifest, "files": there}).encode()
    digest = hashlib.sha256(content).hexdigest()
    kind = _kind(MANIFEST, len(content), is_text=True)
    return UploadFile(MANIFEST, out / MANIFEST, len(content), digest, kind, content)


def _kind(name: str, size: int, is_text: bool) -> Literal["LFS", "regular"]:
    """How the Hub will store a file: by its name, its size and whether it is text."""
    large = name.rpartition(".")[2] in hub_terms().lfs_endings or size >= LARGE or not is_text
    return "LFS" if large else "regular"


def _in_order(files: list[UploadFile]) -> Iterator[UploadFile]:
    """Weights first, the manifest and the card last: what has a card is whole."""
    last = (MANIFEST, MODEL_CARD)
    yield from sorted(
        (file for file in files if file.path not in last), key=lambda f: (f.kind != "LFS", f.path)
    )
    yield from (file for name in last for file in files if file.path == name)
