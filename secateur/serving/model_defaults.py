"""What a model's own files say about serving it: how to draw tokens, and how much it can read.

A GGUF says it in its metadata (`general.sampling.*`, as llama.cpp's converter writes it), a folder
in `generation_config.json`; a GGUF next to such a file is completed by it. What neither says is
neutral, as in vLLM's `--generation-config auto`, and not llama.cpp's or Ollama's own taste.
`"do_sample": false` means the most probable token, as in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.errors import CheckpointError, FormatError, RequestError
from secateur.formats.gguf.reader import read_local_header
from secateur.formats.gguf.split import part_name
from secateur.serving.settings import NEUTRAL, Sampler
from secateur.system.text_files import read_json

_FILE = "generation_config.json"
_KEYS = (
    ("temperature", "temperature", "temp"),
    ("top_k", "top_k", "top_k"),
    ("top_p", "top_p", "top_p"),
    ("min_p", "min_p", "min_p"),
    ("repeat_penalty", "repetition_penalty", "penalty_repeat"),
)
"""Field of a Sampler, key of generation_config.json, key of general.sampling."""


_TOWERS = "clip"
"""The architecture that the GGUF of every vision tower names."""


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """The model's own `sampler`, all but its seed given; `trained_context`, the most tokens it was
    trained for, where the file says it; `nbytes` of the files that hold its weights."""

    sampler: Sampler
    trained_context: int | None
    nbytes: int


def is_tower(path: Path) -> bool:
    """Whether a file is the GGUF of a vision tower. Raises FormatError for a damaged header."""
    if not path.is_file() or path.suffix != ".gguf":
        return False
    architecture = read_local_header(path)[0].metadata.get("general.architecture")
    return architecture is not None and architecture.value == _TOWERS


def gguf_defaults(path: Path) -> ModelDefaults:
    """Of a GGUF (of a split one the first file). Raises FormatError for a damaged header,
    CheckpointError for a damaged generation_config.json next to it."""
    file, _ = read_local_header(path)
    metadata = {key: value.value for key, value in file.metadata.items()}
    sampling = {
        field: metadata[f"general.sampling.{key}"]
        for field, _, key in _KEYS
        if f"general.sampling.{key}" in metadata
    }
    context = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    own = _sampler(sampling, path, FormatError).over(_folder_sampler(path.parent))
    part = part_name(path.name)
    if part is not None and part.number != 1:
        raise FormatError(
            f"{path} is part {part.number} of {part.total}: name the first one, "
            f"{part._replace(number=1).file}"
        )
    return ModelDefaults(own, context if type(context) is int else None, model_bytes(path))


def model_bytes(path: Path) -> int:
    """Bytes of the files that hold a model's weights: of a GGUF with all its parts, of a folder all
    shards. Raises FormatError for a file that is not there."""
    if path.is_dir():
        return sum(_size(file) for file in path.glob("*.safetensors"))
    part = part_name(path.name)
    if part is None:
        return _size(path)
    parts = (part._replace(number=number + 1).file for number in range(part.total))
    return sum(_size(path.with_name(name)) for name in parts)


def folder_defaults(path: Path) -> ModelDefaults:
    """Of a model folder. Raises CheckpointError for a damaged file of it."""
    config = read_json(path / "config.json", "a model's config", CheckpointError)
    parts = [config, config.get("text_config")] if isinstance(config, dict) else []
    found = [part.get("max_position_embeddings") for part in parts if isinstance(part, dict)]
    context = next((value for value in found if type(value) is int), None)
    return ModelDefaults(_folder_sampler(path), context, model_bytes(path))


def _folder_sampler(folder: Path) -> Sampler:
    path = folder / _FILE
    if not path.is_file():
        return NEUTRAL
    settings = read_json(path, "settings of generation", CheckpointError)
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: holds a {type(settings).__name__}, expected an object")
    given = {field: settings[key] for field, key, _ in _KEYS if settings.get(key) is not None}
    if settings.get("do_sample") is False:
        given["temperature"] = 0.0
    return _sampler(given, path, CheckpointError).over(NEUTRAL)


def _sampler(
    given: Mapping[str, Any], path: Path, error: type[FormatError] | type[CheckpointError]
) -> Sampler:
    """Raises `error` for what is no number, or none that can be drawn with."""
    for field, value in given.items():
        if type(value) not in (int, float):
            raise error(f"{path}: {field} of its sampling is {value!r:.40}, expected a number")
    try:
        return Sampler(**given)
    except RequestError as found:
        raise error(f"{path}: of its sampling, {found}") from None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as found:
        raise FormatError(f"cannot read {path}, a part of the model: {found.strerror}") from None
