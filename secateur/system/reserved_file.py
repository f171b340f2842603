"""A file to be mapped, which has its room on the disk before anything is in it."""

from __future__ import annotations

import os
from pathlib import Path


def reserve_file(path: Path, nbytes: int) -> None:
    """Make a file of so many bytes: were they found only when its pages are written to, a full disk
    would end the process. Where the system cannot (macOS), the file is empty. Raises OSError."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, nbytes)
