"""Hashes: of what decides the bytes of an output, and of an artefact that is there."""

from __future__ import annotations

import hashlib

from secateur.checkpoint.identity import file_hashes
from secateur.checkpoint.reader import Checkpoint
from secateur.formats.ggml.engine import engine_version
from secateur.formats.imatrix.matrix import Imatrix
from secateur.outputs.base import Artefact
from secateur.system.progress import Progress, no_progress


def identify(artefact: Artefact, workers: int, progress: Progress = no_progress) -> str:
    """A hash that sees every byte of an artefact's files (and its config)."""
    hashes = file_hashes(artefact.files, progress, workers)
    content = [artefact.identity, *(hashes[file] for file in artefact.files)]
    return hashlib.sha256(" ".join(content).encode()).hexdigest()


def content_key(
    checkpoint: Checkpoint, imatrix: Imatrix | None, feedback: str | None = None
) -> str:
    """Hash of what decides a tensor's bytes, besides what the file's header says: by it an
    interrupted run is resumed. `feedback` is Feedback.identity."""
    digest = hashlib.sha256(f"{engine_version()} {checkpoint.identity()}".encode())
    for name, entry in sorted({} if imatrix is None else imatrix.entries.items()):
        digest.update(f" {name}".encode())
        digest.update(entry.in_sum2.tobytes() + entry.counts.tobytes())
    if feedback is not None:
        digest.update(f" rounded with {feedback}".encode())
    return digest.hexdigest()
