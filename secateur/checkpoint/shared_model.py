"""A model as it is sent to other machines: opened there by its path or hub id, and the same."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from secateur.checkpoint.hub import GEMMULE, is_hub_id
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.errors import CheckpointError
from secateur.families.schema import Family


@dataclass(frozen=True)
class SharedModel:
    """How a machine finds a model, and the identity that it has to have."""

    source: str
    revision: str | None
    family: Family = field(repr=False)
    identity: str

    def open(self) -> Checkpoint:
        """Raises CheckpointError where the model is not there, or is another one."""
        checkpoint = open_checkpoint(self.source, self.revision, self.family)
        if (found := checkpoint.identity()) != self.identity:
            raise CheckpointError(
                f"{self.source} is another model on this machine (identity {found[:12]}, expected "
                f"{self.identity[:12]}): copy the same files to every machine"
            )
        # Its parts are run one after the other.
        return replace(checkpoint, placed={})


def share_model(checkpoint: Checkpoint) -> SharedModel:
    """A model that is open here; a folder is looked for under the same path."""
    source, revision = checkpoint.source, checkpoint.revision
    if source != GEMMULE and (Path(source).exists() or not is_hub_id(source)):
        source, revision = str(checkpoint.path.absolute()), None
    return SharedModel(source, revision, checkpoint.family, checkpoint.identity())
