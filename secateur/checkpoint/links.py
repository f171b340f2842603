"""Whether a file of a model's folder is there, and is one of that folder's.

The hub's cache consists of links to blobs; a blob that was removed, or a download that was
interrupted, leaves a link whose target does not exist: that is an error, not an absent file. A
link that leads out of the folder is one, too: what it leads to would be copied into outputs, and
published. Weights alone may lie elsewhere; they are read as weights or refused.
"""

from __future__ import annotations

import os
from pathlib import Path

from secateur.errors import CheckpointError

_WEIGHTS = ".safetensors"
_SNAPSHOTS, _BLOBS = "snapshots", "blobs"
"""Folders of a repository in the hub's cache: links to files, and the files."""


def is_there(path: Path, *, of_folder: bool = True) -> bool:
    """Whether a file or folder exists.

    Raises CheckpointError for a link whose target does not, for what is neither file nor folder,
    and, of a file in a model's folder, for a link out of it.
    """
    if not path.exists():
        if path.is_symlink():
            raise CheckpointError(
                f"{path} is a link to {os.readlink(path)}, which does not exist: download it again"
            )
        return False
    if not (path.is_file() or path.is_dir()):
        raise CheckpointError(f"{path} is a pipe or a device: put a file there")
    if of_folder and path.suffix != _WEIGHTS and not _leads_inside(path):
        raise CheckpointError(
            f"{path} is a link out of the model's folder, to {path.resolve()}: put the file itself "
            "there, if it belongs to the model"
        )
    return True


def _leads_inside(path: Path) -> bool:
    folder, target = path.parent.resolve(), path.resolve()
    if target.is_relative_to(folder):
        return True
    snapshot = next(
        (one for one in (folder, *folder.parents) if one.parent.name == _SNAPSHOTS), None
    )
    blobs = snapshot and snapshot.parents[1] / _BLOBS
    return blobs is not None and target.is_relative_to(blobs.resolve())
