"""`verify`: compare an output with its manifest."""

from __future__ import annotations

from pathlib import Path

from secateur.api.models import File
from secateur.release import manifest
from secateur.release.manifest import Difference
from secateur.system.progress import Progress, no_progress


def verify(out: File, progress: Progress = no_progress) -> tuple[Difference, ...]:
    """Compare an output with its manifest; empty when all is as it was written."""
    return manifest.verify(Path(out), progress)
