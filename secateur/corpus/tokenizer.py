"""The tokenizer of a model folder: loading it, naming it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.checkpoint.chat_templates import DEFAULT, chat_templates
from secateur.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def has_tokenizer(folder: Path) -> bool:
    """Whether there is a tokenizer in a folder."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))


def load_tokenizer(folder: Path | str) -> PreTrainedTokenizerBase:
    """Load the tokenizer in a folder. Never asks the network, never runs code of the folder.

    Its chat templates are those of `chat_templates`, which a GGUF of the model gets, too.

    Raises CheckpointError when the folder is missing, has no tokenizer, or a damaged one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"no folder {folder}; expected a model folder with tokenizer files")
    if not has_tokenizer(folder):
        raise CheckpointError(
            f"{folder} has neither tokenizer.json nor tokenizer.model; copy the tokenizer files "
            "of the original model into it"
        )
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    from secateur.corpus.bounded_templates import bound_chat_templates

    bound_chat_templates()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the tokenizers library raises plain Exception
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"cannot load the tokenizer in {folder}: {reason}") from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)  # what AutoTokenizer returns
    templates = chat_templates(folder)
    only_default = templates.keys() <= {DEFAULT}
    tokenizer.chat_template = templates.get(DEFAULT) if only_default else templates
    return tokenizer


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over the vocabulary and the chat template, which decide how text becomes rows."""
    content = {"vocabulary": tokenizer.get_vocab(), "template": tokenizer.chat_template}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
