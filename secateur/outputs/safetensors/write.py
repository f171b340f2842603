"""Writing the pruned checkpoint: shards, config, and the files that make it usable."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from secateur.checkpoint.companion_files import copy_companion_files
from secateur.checkpoint.config_edit import with_experts
from secateur.checkpoint.reader import Checkpoint
from secateur.checkpoint.writer import write_shards
from secateur.outputs.build import safetensors_layout
from secateur.planning.document import Plan
from secateur.pruning.drop_map import drop_map
from secateur.system.atomic import write_bytes
from secateur.system.progress import Progress, no_progress

DROP_MAP = "expert_drop_metadata.json"


def write_checkpoint(
    plan: Plan,
    checkpoint: Checkpoint,
    folder: Path,
    progress: Progress = no_progress,
) -> dict[str, str]:
    """Write the shards of the plan into `folder`; returns file -> sha256.

    Memory: a few MiB of buffers.
    """
    return write_shards(folder, safetensors_layout(checkpoint, plan.keep), progress)


def write_beside(plan: Plan, checkpoint: Checkpoint, folder: Path) -> dict[str, str]:
    """Write config, tokenizer, templates and the drop map into `folder`; returns file -> sha256."""
    # Bytes, not text mode: line ends stay as they are.
    config = (checkpoint.path / "config.json").read_bytes().decode("utf-8")
    texts = {
        "config.json": with_experts(config, checkpoint.family, plan.experts),
        DROP_MAP: json.dumps(drop_map(plan.keep, checkpoint.experts), indent=1) + "\n",
    }
    hashes = copy_companion_files(checkpoint.path, folder)
    for name, text in texts.items():
        data = text.encode()
        write_bytes(folder / name, data)
        hashes[name] = hashlib.sha256(data).hexdigest()
    return hashes
