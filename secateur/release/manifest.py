"""The manifest: every file of an output with its hash, and what it was made from.

Written last: its presence means that the output is whole. `verify` reads it back.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from secateur import __version__
from secateur.errors import OutputError
from secateur.system.atomic import is_partial, write_text
from secateur.system.progress import Counter, Progress, no_progress
from secateur.system.text_files import read_json

MANIFEST = "manifest.json"
RUN = "run.json"
OF_ONE_RUN = (RUN, "report.md", "report.html", "evidence/speed.json", "evidence/speed/")
"""Files with the times of one run, and folders of them. They are in no manifest: it is the same for
the same inputs."""
OWN = "manifest_sha256"
"""The key of the hash of everything else in a manifest."""

_LIBRARIES = ("numpy", "safetensors", "tokenizers", "torch", "transformers", "xllamacpp")


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which an output differs from its manifest.

    A file that is missing or changed is damage; an additional one (README.md, .gitattributes, a
    Modelfile) is what people put there before they publish.
    """

    file: str
    kind: Literal["missing", "changed", "additional"]
    what: str

    @property
    def is_damage(self) -> bool:
        return self.kind != "additional"


def write_manifest(
    folder: Path, facts: Mapping[str, Any], known: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Hash every file of a new output and write its manifest, complete or absent.

    `facts` says what the output was made from (model, plan, corpora, edits); `known` gives the
    sha256 of files that were hashed while they were written. Raises WriteError.
    """
    files = {
        name: _entry(folder / name, (known or {}).get(name))
        for name in _files_of(folder)
        if not is_partial(folder / name)
    }
    manifest = {"secateur": __version__, **facts, "versions": versions(), "files": files}
    return _save(folder, manifest)


def amend_manifest(folder: Path, names: Collection[str], gone: Collection[str] = ()) -> None:
    """Bring exactly these files of an output up to date in its manifest, and take out those that
    are gone; nothing else changes.

    Raises OutputError when there is no manifest or it is damaged, WriteError.
    """
    manifest = read_manifest(folder)
    files = {**manifest["files"], **{name: _entry(folder / name) for name in names}}
    kept = {name: files[name] for name in sorted(files) if not is_of_one_run(name)}
    kept = {name: entry for name, entry in kept.items() if name not in gone}
    _save(folder, {**manifest, "files": kept})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an output. Raises OutputError when there is none, or it is damaged."""
    path = folder / MANIFEST
    if not path.exists():
        raise OutputError(
            f"{folder} has no {MANIFEST}: it is not an output of secateur, or an unfinished one"
        )
    manifest = read_json(path, "the list of files and hashes of an output", OutputError)
    try:
        for name, entry in manifest["files"].items():
            _ = int(entry["bytes"]), str(entry["sha256"])
            if "\0" in name or name.startswith("/") or ".." in name.split("/"):
                raise OutputError(
                    f"{path} names {name!r:.200}, a file outside of the output: secateur did not "
                    "write that; make the output again"
                )
        if manifest.get(OWN, digest := _own_sha256(manifest)) != digest:
            raise ValueError("it was changed")
        return dict(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise OutputError(
            f"{path} is damaged: it is not the list of files and hashes that secateur writes, so "
            "nothing can be compared with it; make the output again"
        ) from None


def is_of_one_run(name: str) -> bool:
    """Whether a file of an output has the times of one run."""
    return any(name.startswith(one) if one.endswith("/") else name == one for one in OF_ONE_RUN)


def files_of_one_run(folder: Path) -> list[str]:
    """The names of the files of an output that are in no manifest."""
    return [name for name in _all_files(folder) if is_of_one_run(name)]


def verify(folder: Path, progress: Progress = no_progress) -> tuple[Difference, ...]:
    """Compare an output with its manifest: missing and changed files, then additional ones.

    Reads every listed file once. Raises OutputError when there is no manifest or it is damaged.
    """
    listed = read_manifest(folder)["files"]
    total = sum(int(entry["bytes"]) for entry in listed.values())
    count = Counter(progress, "verify", total, "bytes")
    found = []
    for name, entry in listed.items():
        if (difference := _compare(folder / name, name, entry)) is not None:
            found.append(difference)
        count(int(entry["bytes"]))
    found += [
        Difference(name, "additional", "is not in the manifest")
        for name in _files_of(folder)
        if name not in listed
    ]
    return tuple(found)


def check_undamaged(
    folder: Path, ignored: Collection[str] = (), progress: Progress = no_progress
) -> tuple[str, ...]:
    """Compare an output with its manifest before it is worked on; returns its additional files.

    `ignored` files may be anything: they will be written. Raises OutputError when another file is
    missing or changed, naming the first.
    """
    found = [entry for entry in verify(folder, progress) if entry.file not in ignored]
    damage = [entry for entry in found if entry.is_damage]
    if damage:
        raise OutputError(f"{folder} {describe_damage(damage)}")
    return tuple(entry.file for entry in found)


def describe_damage(damage: Sequence[Difference]) -> str:
    """`is not what its manifest says: ...`, with what to do; of at least one difference."""
    more = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
    return (
        f"is not what its manifest says: {damage[0].file} {damage[0].what}{more}: put the file "
        "back as it was, or make the output again"
    )


def _compare(path: Path, name: str, entry: Mapping[str, Any]) -> Difference | None:
    if not path.is_file():
        return Difference(name, "missing", "is missing")
    size, digest = path.stat().st_size, str(entry["sha256"])
    if size != entry["bytes"]:
        return Difference(name, "changed", f"has {size} bytes, the manifest says {entry['bytes']}")
    actual = sha256_of(path)
    if actual != digest:
        what = f"has sha256 {actual[:12]}..., the manifest says {digest[:12]}..."
        return Difference(name, "changed", what)
    return None


def _files_of(folder: Path) -> list[str]:
    """The names of all files below an output that belong into its manifest."""
    return [name for name in _all_files(folder) if name != MANIFEST and not is_of_one_run(name)]


def _all_files(folder: Path) -> list[str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    inside = folder.resolve()
    for path in paths:
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            raise OutputError(
                f"{path} is a link out of the output, to {path.resolve()}: what it leads to would "
                "be sent with it; remove it, or put the file itself there"
            )
    return [path.relative_to(folder).as_posix() for path in paths]


def _entry(path: Path, sha256: str | None = None) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256 or sha256_of(path)}


def _save(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    text = manifest_text(manifest)
    write_text(folder / MANIFEST, text)
    whole: dict[str, Any] = json.loads(text)
    return whole


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """A manifest as it is written, with the hash of all that it says."""
    whole = {**manifest, OWN: _own_sha256(manifest)}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _own_sha256(manifest: Mapping[str, Any]) -> str:
    """The hash of all that a manifest says otherwise; those of older versions have none."""
    said = {key: value for key, value in manifest.items() if key != OWN}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a result."""
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found
