"""One document to token ids, with the tokenizer and the chat template of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secateur.corpus.chat_template import render_chat
from secateur.corpus.fields import Content
from secateur.corpus.thoughts import THOUGHT_KEYS
from secateur.errors import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenize(
    content: Content,
    tokenizer: PreTrainedTokenizerBase,
    template: Mapping[str, Any],
    thought: str | None,
    where: str,
) -> NDArray[np.int64]:
    """The tokens [token] of a document, with the special tokens that begin it.

    Text gets those that the tokenizer adds; messages get what the chat template writes, and no
    prompt for a further answer. `template`: further arguments of the chat template. `thought`:
    the format of `content.thoughts` (see `find_thought_format`).
    Raises CorpusError when the template refuses the messages.
    """
    if content.text is not None:
        ids = tokenizer(content.text, verbose=False)["input_ids"]
    else:
        text = render_conversation(content, tokenizer, template, thought, where)
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return np.array(ids, np.int64)


def render_conversation(
    content: Content,
    tokenizer: PreTrainedTokenizerBase,
    template: Mapping[str, Any],
    thought: str | None,
    where: str,
) -> str:
    """What the template writes for the messages of a document, thoughts included.

    The arguments are those of `tokenize`. Raises CorpusError when the template refuses them.
    """
    messages = [dict(message) for message in content.messages]
    turns: dict[str, str] = {}
    for index, words in content.thoughts.items():
        message = messages[index]
        if thought is None:
            message |= dict.fromkeys(THOUGHT_KEYS, words)
        else:
            # A word of letters passes through every template; what it stands for would not.
            standin = f"SECATEURTURN{index}END"
            turns[standin] = thought.replace("{thought}", words) + message["content"].strip()
            message["content"] = standin
    text = render_chat(tokenizer, messages, content.tools, template, where)
    for standin, turn in turns.items():
        if text.count(standin) != 1:
            raise CorpusError(
                f"{where}: the chat template writes the model's turn {text.count(standin)} times, "
                "expected once, so its thought cannot be put in"
            )
        text = text.replace(standin, turn)
    return text
