"""A checkpoint folder as a source of running weights."""

from __future__ import annotations

from pathlib import Path

from secateur.checkpoint.reader import open_checkpoint
from secateur.forward.weights import CheckpointWeights


def open_weights(folder: Path) -> tuple[CheckpointWeights, str]:
    """(weights, identity) of a model folder. Raises CheckpointError when it is damaged."""
    checkpoint = open_checkpoint(folder)
    return CheckpointWeights(checkpoint), checkpoint.identity()
