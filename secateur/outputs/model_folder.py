"""What formats that are a model folder (config.json and safetensors) have in common."""

from __future__ import annotations

from pathlib import Path

from secateur.checkpoint.reader import Checkpoint
from secateur.errors import InputError
from secateur.families.schema import Family


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files of weights in a model folder, sorted."""
    return tuple(sorted(folder.glob("model*.safetensors")))


def check_family(path: Path, family: Family, original: Checkpoint) -> None:
    """Raise InputError unless a model is of the family of the original."""
    if family.name != original.family.name:
        raise InputError(
            f"{path} is a {family.title} model and {original.path} a "
            f"{original.family.title}: give the original that it was made from"
        )
