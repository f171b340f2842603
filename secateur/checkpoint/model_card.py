"""The YAML at the head of a model card, as publishers write it: a folder's README.md."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from secateur.errors import CheckpointError
from secateur.system.settings import BoundedYaml
from secateur.system.text_files import LARGEST_SETTINGS, read_text

MODEL_CARD = "README.md"


def read_front_matter(folder: Path) -> Mapping[str, Any]:
    """The front matter of a folder's card; empty when there is none that can be read."""
    try:
        text = read_text(folder / MODEL_CARD, "a model card", CheckpointError, LARGEST_SETTINGS)
        head = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
        content = yaml.load(head[1], BoundedYaml) if head else None
        # YAML's escapes can name halves of characters, which no file can hold.
        json.dumps(content, skipkeys=True, default=str, ensure_ascii=False).encode()
    except (CheckpointError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def texts(value: Any) -> list[str]:
    """A text or a list of texts, as a list; what is neither is left out."""
    return [item for item in (value if isinstance(value, list) else [value]) if _is_text(item)]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
