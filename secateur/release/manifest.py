"""The manifest: every file of an output with its hash, and what it was made from.

Written last: its presence means that the output is whole. `verify` reads it back.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from secateur import __version__
from secateur.errors import OutputError
from secateur.system.atomic import is_partial, write_text
from secateur.system.progress import Counter, Progress, no_progress

MANIFEST = "manifest.json"
_LIBRARIES = ("numpy", "safetensors", "tokenizers", "torch", "transformers", "xllamacpp")
_BLOCK = 1 << 24


@dataclass(frozen=True)
class Problem:
    """One way in which an output differs from its manifest."""

    file: str
    what: str


def write_manifest(
    folder: Path, facts: Mapping[str, Any], known: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Hash every file of `folder` and write the manifest beside them.

    `facts` says what the output was made from (model, plan, corpora, edits); `known` gives the
    sha256 of files that were hashed while they were written.
    """
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name != MANIFEST and not is_partial(path):
            digest = (known or {}).get(name) or sha256_of(path)
            files[name] = {"bytes": path.stat().st_size, "sha256": digest}
    manifest = {
        "secateur": __version__,
        **facts,
        "versions": versions(),
        "files": files,
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an output. Raises OutputError when there is none, or it is damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        for entry in manifest["files"].values():
            _ = int(entry["bytes"]), str(entry["sha256"])
        return dict(manifest)
    except FileNotFoundError:
        raise OutputError(
            f"{folder} has no {MANIFEST}: it is no output of secateur, or an unfinished one"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(f"{folder / MANIFEST} is damaged ({error!r}): make it again") from None


def verify(folder: Path, progress: Progress = no_progress) -> tuple[Problem, ...]:
    """Compare an output with its manifest: missing, changed and unlisted files.

    Reads every file once. Raises OutputError without a manifest.
    """
    listed = read_manifest(folder)["files"]
    total = sum(int(entry["bytes"]) for entry in listed.values())
    count = Counter(progress, "verify", total, "bytes")
    problems = []
    for name, entry in listed.items():
        path = folder / name
        if not path.is_file():
            problems.append(Problem(name, "is missing"))
        elif (size := path.stat().st_size) != entry["bytes"]:
            problems.append(Problem(name, f"has {size} bytes, the manifest says {entry['bytes']}"))
        elif (digest := sha256_of(path)) != entry["sha256"]:
            problems.append(
                Problem(
                    name,
                    f"has sha256 {digest[:12]}..., the manifest says "
                    f"{str(entry['sha256'])[:12]}...",
                )
            )
        count(int(entry["bytes"]))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in listed and name != MANIFEST:
            problems.append(Problem(name, "is not in the manifest"))
    return tuple(problems)


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file, read in blocks of 16 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a result."""
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found
