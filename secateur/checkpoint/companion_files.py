"""The files beside the weights that make a checkpoint usable: tokenizer, templates, processors.

They are copied byte for byte. What is not listed stays behind: pickled weights, code, and the
publisher's README, which would describe another model.
"""

from __future__ import annotations

import hashlib
from fnmatch import fnmatchcase
from pathlib import Path

from secateur.system.atomic import write_bytes

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
    "additional_chat_templates/*.jinja",
    "generation_config.json",
    "*processor_config.json",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)
"""Glob patterns, relative to the model's folder."""


def companion_files(folder: Path) -> tuple[str, ...]:
    """Names (relative to `folder`) of the files to copy, sorted."""
    found = {
        path.relative_to(folder).as_posix()
        for pattern in PATTERNS
        for path in folder.glob(pattern)
        if path.is_file()
    }
    return tuple(sorted(found))


def copy_companion_files(source: Path, target: Path, without: str | None = None) -> dict[str, str]:
    """Copy them from one model folder to another; returns name -> sha256 (hex).

    `without` is a glob pattern of names that stay behind. Raises WriteError when the target cannot
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
