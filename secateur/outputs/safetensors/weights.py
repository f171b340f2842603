"""A checkpoint folder as a source of running weights."""

from __future__ import annotations

from pathlib import Path

from secateur.checkpoint.reader import open_checkpoint
from secateur.families.schema import Family
from secateur.forward.weights import CheckpointWeights


def open_weights(folder: Path, family: Family) -> tuple[CheckpointWeights, str]:
    """(weights, identity) of a model folder; `family` comes before the known ones.

    Raises CheckpointError when it is damaged.
    """
    checkpoint = open_checkpoint(folder, family=family)
    return CheckpointWeights(checkpoint), checkpoint.identity()
