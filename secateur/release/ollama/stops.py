"""The texts at which Ollama stops a model: each one control token of its vocabulary."""

from __future__ import annotations

from pathlib import Path

from secateur.errors import CheckpointError
from secateur.release.ollama.comparison import render_own
from secateur.release.ollama.conversations import Conversation
from secateur.release.ollama.model_file import ModelFile
from secateur.system.text_files import read_json

_ANSWER = "SECATEURANSWER"


def stops_of(model: ModelFile, folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(stops, notes): the end of a turn in the model's chat template, then the tokens that
    generation_config.json in `folder` and the GGUF's header say end an answer.

    What is no control token of the file is left out and noted: text could spell it, or the model
    never writes it. Raises CheckpointError for a damaged generation_config.json.
    """
    wanted = [end for end in (turn_end(model),) if end is not None]
    wanted += [model.by_id.get(number, f"token {number}") for number in _configured(folder)]
    wanted += model.ends
    unique = tuple(dict.fromkeys(wanted))
    stops = tuple(text for text in unique if model.is_control(text))
    notes = [
        f"{text} ends an answer by the model's files and is no control token of {model.path.name}: "
        "it is no stop"
        for text in unique
        if not model.is_control(text)
    ]
    if model.template is not None and turn_end(model) is None:
        notes.append("the chat template writes no control token after an answer, so no stop for it")
    return stops, tuple(notes)


def turn_end(model: ModelFile) -> str | None:
    """The control token that the model's chat template writes right after an answer."""
    asked = {"role": "user", "content": "question"}
    turns = (asked, {"role": "assistant", "content": _ANSWER}, asked)
    text = render_own(model, Conversation("a turn's end", turns)) if model.template else None
    after = (text or "").rpartition(_ANSWER)[2].lstrip()
    found = [token for token in model.controls if token and after.startswith(token)]
    return max(found, key=len, default=None)


def _configured(folder: Path) -> list[int]:
    path = folder / "generation_config.json"
    if not path.is_file():
        return []
    settings = read_json(path, "settings of generation", CheckpointError)
    named = settings.get("eos_token_id") if isinstance(settings, dict) else None
    ids = named if isinstance(named, list) else [] if named is None else [named]
    if not all(type(token) is int for token in ids):
        raise CheckpointError(
            f"{path}: eos_token_id is {named!r:.60}, expected a token id or a list of them"
        )
    return ids
