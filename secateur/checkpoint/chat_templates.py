"""The chat templates of a model folder, read once for everyone who needs them.

Order of precedence, as transformers 5.23 has it: the files chat_template.jinja and
additional_chat_templates/NAME.jinja, all of them together; else `chat_template` of
tokenizer_config.json, a text or a list of named ones; else chat_template.json, which older
processors wrote. (gguf-py prefers tokenizer_config.json, so where both disagree its files hold a
template that transformers does not use.)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.checkpoint.links import is_there
from secateur.errors import CheckpointError
from secateur.system.text_files import read_json, read_text

DEFAULT = "default"
"""The name of the template that is used where none is asked for."""

_FILE = "chat_template.jinja"
_FOLDER = "additional_chat_templates"
_KEY = "chat_template"


def chat_templates(folder: Path) -> dict[str, str]:
    """Name -> template; a model's only template is DEFAULT. Empty for a model without one.

    Raises CheckpointError for a file that cannot be read, or that holds no template where one
    should be.
    """
    named = {path.stem: path for path in sorted((folder / _FOLDER).glob("*.jinja"))}
    named[DEFAULT] = folder / _FILE
    named = {name: path for name, path in named.items() if is_there(path)}
    if named:
        return {
            name: read_text(path, "a chat template", CheckpointError)
            for name, path in named.items()
        }
    for file in (folder / "tokenizer_config.json", folder / "chat_template.json"):
        found = _of_json(file) if file.is_file() else None
        if found is not None:
            return found
    return {}


def _of_json(file: Path) -> dict[str, str] | None:
    """The templates of a JSON file; None when it has no such key."""
    content = read_json(file, "a part of a tokenizer", CheckpointError)
    value = content.get(_KEY) if isinstance(content, dict) else None
    if value is None:
        return None
    if isinstance(value, str):
        return {DEFAULT: value}
    return dict(_named(file, value))


def _named(file: Path, value: Any) -> Mapping[str, str]:
    """The templates of a list of {"name", "template"}, or of an object name -> template."""
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        value = {item.get("name"): item.get("template") for item in value}
    if not isinstance(value, dict) or not all(
        isinstance(name, str) and isinstance(text, str) for name, text in value.items()
    ):
        raise CheckpointError(
            f"{file}: {_KEY} is neither a text nor a list of named templates: take the file of "
            "the model's publisher"
        )
    return value
