"""The tokenizer's part of a GGUF header: its keys, or only their size, or nothing known of it.

A checkpoint has its tokenizer in its folder. A config alone may have none; then the tensors of a
file are known to the byte and the file is not, and nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from secateur.checkpoint.chat_templates import DEFAULT, chat_templates
from secateur.checkpoint.reader import Checkpoint
from secateur.errors import CheckpointError, PlanError
from secateur.formats.gguf.container import Metadata, metadata_bytes
from secateur.formats.gguf.metadata import sampling_metadata
from secateur.formats.gguf.rules import gguf_rules
from secateur.formats.gguf.tokenizer import has_tokenizer, tokenizer_metadata
from secateur.formats.gguf.vocabulary import read_vocabulary

_EMBEDDING = "token_embd.weight"


_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
"""Files that stand for the folder they are in."""


@dataclass(frozen=True)
class TokenizerKeys:
    """The keys of the tokenizer and the default sampling.

    `nbytes` is their exact size, None when no tokenizer is at hand; `metadata` is empty where no
    more than the size is known; `notes` say what of the tokenizer a GGUF does not hold.
    """

    metadata: Metadata = field(repr=False)
    nbytes: int | None
    notes: tuple[str, ...] = ()


def tokenizer_keys(checkpoint: Checkpoint, source: Path | None = None) -> TokenizerKeys:
    """The tokenizer of a checkpoint.

    `source` is for a config without a tokenizer: a folder with one, its tokenizer.json or
    tokenizer.model, or a GGUF that holds the vocabulary. Raises PlanError for a checkpoint that
    has one, CheckpointError for a tokenizer that is damaged or not this model's, FormatError for a
    file that is no GGUF with a vocabulary.
    """
    if not checkpoint.shape_only and source is not None:
        raise PlanError(
            f"{checkpoint.source} has its own tokenizer: --tokenizer is for a config alone"
        )
    if source is not None and source.name in _TOKENIZER_FILES and not source.is_dir():
        source = source.parent
    if source is not None and not source.is_dir():
        return _of_vocabulary(checkpoint, source)
    folder = source or checkpoint.path
    rules = gguf_rules(checkpoint.family).tokenizer
    if checkpoint.shape_only and source is None and not has_tokenizer(folder, rules):
        return TokenizerKeys({}, None)
    metadata = {
        **sampling_metadata(checkpoint.path),
        **tokenizer_metadata(folder, checkpoint.config, rules, _rows(checkpoint)),
    }
    return TokenizerKeys(metadata, metadata_bytes(metadata), _template_notes(folder))


def _template_notes(folder: Path) -> tuple[str, ...]:
    """What a GGUF loses of the model's chat templates: which one is used by default."""
    templates = chat_templates(folder)
    if not templates or DEFAULT in templates:
        return ()
    return (
        f"the model has chat templates by name only ({', '.join(sorted(templates))}): its GGUF has "
        "none that llama.cpp uses unasked",
    )


def _of_vocabulary(checkpoint: Checkpoint, path: Path) -> TokenizerKeys:
    found, rows = read_vocabulary(path), _rows(checkpoint)
    model = gguf_rules(checkpoint.family).tokenizer.model
    if (found.model, found.tokens) != (model, rows):
        raise CheckpointError(
            f"{path}: holds a {found.model!r} tokenizer of {found.tokens} tokens, but "
            f"{checkpoint.source} needs a {model!r} tokenizer of {rows}: name the model's own"
        )
    sampling = metadata_bytes(sampling_metadata(checkpoint.path)) or found.sampling
    return TokenizerKeys({}, found.nbytes + sampling)


def _rows(checkpoint: Checkpoint) -> int:
    """Rows of the token embedding."""
    for name, place in checkpoint.matches.items():
        if _EMBEDDING in place.row.gguf:
            return checkpoint.specs[name].shape[0]
    raise CheckpointError(f"{checkpoint.source} has no token embedding: it is incomplete")
