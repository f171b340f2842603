"""Whether a file is there: a link to nothing is an error, not an absent file.

The hub's cache consists of links to blobs; a blob that was removed, or a download that was
interrupted, leaves a link whose target does not exist.
"""

from __future__ import annotations

import os
from pathlib import Path

from secateur.errors import CheckpointError


def is_there(path: Path) -> bool:
    """Whether a file or folder exists. Raises CheckpointError for a link whose target does not."""
    if path.exists():
        return True
    if path.is_symlink():
        raise CheckpointError(
            f"{path} is a link to {os.readlink(path)}, which does not exist: download it again"
        )
    return False
