"""What a family's TOML says of its form in Ollama: `[ollama]`.

Ollama renders a conversation with a template in Go's language, or with a renderer of its own. The
Go templates are files in the folder `ollama` next to the family's TOML. None of this is taken for
granted: before a template or a renderer is named in a release, it is compared with the chat
template of the model itself (`release/ollama/choose.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from secateur.errors import FamilyError
from secateur.system.text_files import read_text

_FOLDER = "ollama"


@dataclass(frozen=True, slots=True)
class GoTemplate:
    """[[ollama.template]]: a Go template, tried in the order of the file.

    `parts` are the names of the files (without `.gotmpl`) of which it consists, one after another.
    """

    name: str
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OllamaRenderer:
    """[ollama.renderer]: Ollama's own renderer for the architecture, which `ollama create` takes.

    `template` is the [[ollama.template]] that writes what it writes, `parser` what Ollama reads
    answers with, `requires` the first version of Ollama whose renderer does so.
    """

    name: str
    parser: str
    template: str
    requires: str


@dataclass(frozen=True, slots=True)
class OllamaRules:
    """[ollama]: the Go templates that may be a model's, and Ollama's renderer."""

    templates: tuple[GoTemplate, ...] = field(default=(), metadata={"key": "template"})
    renderer: OllamaRenderer | None = None


def template_texts(rules: OllamaRules, file: str) -> Iterator[tuple[str, str]]:
    """(name, text) of every Go template of a family that was read from `file`.

    Raises FamilyError for a part that is neither next to that file nor shipped with secateur.
    """
    for template in rules.templates:
        yield template.name, "".join(_part(name, file) for name in template.parts)


def _part(name: str, file: str) -> str:
    own = Path(file).parent / _FOLDER / f"{name}.gotmpl"
    if own.is_file():
        text = read_text(own, "a part of a Go template", FamilyError)
    else:
        shipped = resources.files(__package__) / "data" / _FOLDER / f"{name}.gotmpl"
        if Path(name).name != name or not shipped.is_file():
            raise FamilyError(f"{file}: the Go template {own} that it names is not there")
        text = shipped.read_text("utf-8")
    return text.removesuffix("\n")
