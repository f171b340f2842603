"""The small files of every output: config, tokenizer and templates, and which experts were kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from secateur.checkpoint.companion_files import copy_companion_files
from secateur.checkpoint.config_edit import with_experts
from secateur.checkpoint.hub import CONFIG
from secateur.checkpoint.reader import Checkpoint
from secateur.planning.document import Plan
from secateur.pruning.drop_map import drop_map
from secateur.system.atomic import write_bytes

DROP_MAP = "expert_drop_metadata.json"


def write_companions(plan: Plan, checkpoint: Checkpoint, folder: Path) -> dict[str, str]:
    """Write config, tokenizer, templates and the drop map into `folder`; returns file -> sha256.

    Raises WriteError when the disk refuses.
    """
    # Bytes, not text mode, which would change line ends.
    config = checkpoint.config_file.read_bytes().decode("utf-8")
    texts = {
        CONFIG: with_experts(config, checkpoint.family, plan.experts),
        DROP_MAP: json.dumps(drop_map(plan.keep, checkpoint.experts), indent=1) + "\n",
    }
    hashes = copy_companion_files(checkpoint.path, folder)
    for name, text in texts.items():
        data = text.encode()
        write_bytes(folder / name, data)
        hashes[name] = hashlib.sha256(data).hexdigest()
    return hashes
