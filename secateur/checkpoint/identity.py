"""What tells one model from another: a hash that sees every byte of its weights.

The identity is the sha256 of the config (as values: order of keys and layout do not count) and of
the sha256 of every file of weights, in order of these hashes. Names and places of the files do not
count, nor does the index; how the tensors are spread over files does: the same model saved in other
shards is another one to us. So a file of the hub's cache need not be read, because the hub keeps
it under its sha256, and a copy of that file elsewhere has the same identity.

The sha256 of any other file is computed once and remembered in the user's cache folder, for as
long as path, size, inode and times of change stay the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from secateur.checkpoint.headers import TensorSpec
from secateur.errors import CheckpointError, ReadError, SecateurError
from secateur.system import atomic
from secateur.system.cache import WEIGHT_HASHES
from secateur.system.progress import Counter, Progress, no_progress
from secateur.system.resources import cache_folder, cores

_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK = 1 << 20
_SETTLED = 1_000_000_000
"""Nanoseconds a file must be unchanged before its hash is remembered: two changes within one tick
of the disk's clock leave the same stamp."""

Stamp = tuple[int, int, int, int]
"""Size, inode, and the nanoseconds of the last change of content and of the file's entry."""


def weights_identity(
    config: Mapping[str, Any],
    files: Collection[Path],
    progress: Progress = no_progress,
    workers: int | None = None,
) -> str:
    """The identity (hex) of a model with these files of weights.

    Reads those whose sha256 is not known, `workers` at a time (default: all cores), and reports
    bytes to `progress`. Raises CheckpointError for a file that cannot be read.
    """
    hashes = file_hashes(files, progress, workers)
    return _digest(config, sorted(hashes.values()))


def shape_identity(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> str:
    """The identity of a model without weights: config, names, types and shapes."""
    described = (f"{spec.name} {spec.dtype} {spec.shape}" for spec in specs.values())
    return _digest(config, sorted(described))


def file_hashes(
    files: Collection[Path], progress: Progress = no_progress, workers: int | None = None
) -> dict[Path, str]:
    """{file: sha256}, from the hub's names and from what is remembered; only the rest is read."""
    known = {path: digest for path in files if (digest := _name_of_blob(path))}
    stamps = {path: _stamp(path) for path in files if path not in known}
    remembered = _load()
    for path, stamp in stamps.items():
        if (entry := remembered.get(_key(path))) and entry[0] == stamp:
            known[path] = entry[1]
    unread = [path for path in stamps if path not in known]
    if unread:
        count = Counter(progress, "hash weights", sum(stamps[p][0] for p in unread), "bytes")
        known |= _read_all(unread, stamps, count, workers or cores())
    return known


def bytes_to_hash(files: Collection[Path]) -> int:
    """Bytes of the files whose sha256 is not known: what `file_hashes` will read."""
    stamps = {path: _stamp(path) for path in files if _name_of_blob(path) is None}
    remembered = _load()
    known = {path for path, stamp in stamps.items() if remembered.get(_key(path), [()])[0] == stamp}
    return sum(stamps[path][0] for path in stamps.keys() - known)


def _read_all(
    files: Collection[Path], stamps: Mapping[Path, Stamp], count: Counter, workers: int
) -> dict[Path, str]:
    """{file: sha256}. Interrupted, it stops at once, and what was finished is remembered."""
    hashes: dict[Path, str] = {}
    stop = Event()
    begun = time.monotonic_ns()

    def read(path: Path) -> None:
        if digest := _hash(path, count, stop):
            hashes[path] = digest

    with ThreadPoolExecutor(workers) as pool:
        try:
            for _ in pool.map(read, files):
                pass
        finally:
            stop.set()
            found = {path: (stamps[path], digest) for path, digest in hashes.items()}
            _remember(found, time.monotonic_ns() - begun)
    return hashes


def _digest(config: Mapping[str, Any], lines: Collection[str]) -> str:
    text = "\n".join([json.dumps(config, sort_keys=True), *lines])
    return hashlib.sha256(text.encode()).hexdigest()


def _name_of_blob(path: Path) -> str | None:
    """The sha256 that the hub's cache gives a file: the name of the blob that it is a link to.

    The cache holds `snapshots/COMMIT/NAME`, a link to `blobs/SHA256` of the same repository; small
    files have names of another form, 40 digits.
    """
    try:
        blob = path.parent / os.readlink(path)
    except OSError:
        return None
    home = Path(os.path.abspath(path)).parent.parent
    at_home = os.path.abspath(blob.parent) == str(home.parent / "blobs")
    return (
        blob.name if home.name == "snapshots" and at_home and _SHA256.fullmatch(blob.name) else None
    )


def stamps(files: Collection[Path]) -> str:
    """What changes when one of these files does. Raises ReadError for one that has vanished."""
    try:
        return json.dumps([_stamp(path)[:3] for path in files])
    except CheckpointError as error:
        raise ReadError(f"{error}, which was there when the work began: put it back") from None


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _key(path: Path) -> str:
    return str(path.resolve())


def _hash(path: Path, count: Counter, stop: Event) -> str | None:
    """The sha256 of a file; None when it was stopped."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_BLOCK))
    try:
        with path.open("rb", buffering=0) as file:
            while read := file.readinto(buffer):
                if stop.is_set():
                    return None
                digest.update(buffer[:read])
                count(read)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    return digest.hexdigest()


def _load() -> dict[str, tuple[Stamp, str]]:
    """What is remembered; nothing where there is no cache folder, or its file is damaged."""
    try:
        data = json.loads((cache_folder() / WEIGHT_HASHES).read_text("utf-8"))
        return {
            str(path): ((int(a), int(b), int(c), int(d)), str(digest))
            for path, ((a, b, c, d), digest) in data.items()
        }
    except (OSError, RuntimeError, ValueError, TypeError, AttributeError):
        return {}


def _remember(new: Mapping[Path, tuple[Stamp, str]], watched: int) -> None:
    """Keep hashes for the next time; forget those of files that are gone.

    The files had their stamps `watched` nanoseconds ago: where a clock was set back after a file
    was written, its stamp is one of the future, and only that says that it is settled.

    Of two processes that do so at the same moment one may be forgotten: it computes again. A
    folder that cannot be written is no reason to fail.
    """
    now = time.time_ns()
    try:
        settled = {
            _key(path): (stamp, digest)
            for path, (stamp, digest) in new.items()
            if stamp == _stamp(path) and max(watched, now - max(stamp[2:])) > _SETTLED
        }
        if settled:
            kept = {path: entry for path, entry in _load().items() if os.path.exists(path)}
            text = json.dumps(kept | settled, indent=0, sort_keys=True)
            atomic.write_text(cache_folder() / WEIGHT_HASHES, text)
    except (OSError, RuntimeError, SecateurError):
        return
