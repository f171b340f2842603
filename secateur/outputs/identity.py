"""What decides the bytes of an output, as one hash: by it an interrupted run is resumed."""

from __future__ import annotations

import hashlib

from secateur.checkpoint.reader import Checkpoint
from secateur.formats.ggml.engine import engine_version
from secateur.formats.imatrix.matrix import Imatrix


def content_key(
    checkpoint: Checkpoint, imatrix: Imatrix | None, gram_sha256: str | None = None
) -> str:
    """Hash of what decides a tensor's bytes, besides what the file's header says."""
    digest = hashlib.sha256(f"{engine_version()} {checkpoint.identity()}".encode())
    for name, entry in sorted({} if imatrix is None else imatrix.entries.items()):
        digest.update(f" {name}".encode())
        digest.update(entry.in_sum2.tobytes() + entry.counts.tobytes())
    if gram_sha256 is not None:
        digest.update(f" rounded with {gram_sha256}".encode())
    return digest.hexdigest()
