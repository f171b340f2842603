"""The files that make a checkpoint usable next to its weights: tokenizer, templates, processors.

They are copied byte for byte. What is not listed is not copied: pickled weights, code, and the
publisher's README, which would describe another model.
"""

from __future__ import annotations

import hashlib
from fnmatch import fnmatchcase
from pathlib import Path

from secateur.checkpoint.links import is_there
from secateur.system.atomic import write_bytes

_TEMPLATES = "additional_chat_templates"

PATTERNS = (
    "tokenizer*.json",
    "tokenizer*.model",
    "*.tiktoken",
    "sentencepiece*.model",
    "spiece.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.json",
    "*.jinja",
    f"{_TEMPLATES}/*.jinja",
    "generation_config.json",
    "*processor_config.json",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)
"""Glob patterns, relative to the model's folder."""


def companion_files(folder: Path) -> tuple[str, ...]:
    """Names (relative to `folder`) of the files to copy, sorted.

    Raises CheckpointError for a link to nothing or out of the folder (`links.is_there`).
    """
    names = [entry.name for entry in folder.iterdir()]
    if _TEMPLATES in names and (folder / _TEMPLATES).is_dir():
        names += [f"{_TEMPLATES}/{entry.name}" for entry in (folder / _TEMPLATES).iterdir()]
    return tuple(
        sorted(
            name
            for name in names
            if any(fnmatchcase(name, pattern) for pattern in PATTERNS)
            and is_there(folder / name)
            and (folder / name).is_file()
        )
    )


def copy_companion_files(source: Path, target: Path, without: str | None = None) -> dict[str, str]:
    """Copy them from one model folder to another; returns name -> sha256 (hex).

    `without` is a glob pattern of names to leave out. Raises WriteError when the target cannot
    be written.
    """
    hashes = {}
    for name in companion_files(source):
        if without is not None and fnmatchcase(name, without):
            continue
        data = (source / name).read_bytes()
        write_bytes(target / name, data)
        hashes[name] = hashlib.sha256(data).hexdigest()
    return hashes
