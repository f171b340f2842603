"""Conversations to text, by the chat template of a model: a program that came with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from secateur.errors import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def chat_text(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    arguments: Mapping[str, Any],
    where: str,
) -> str:
    """What the template writes for `messages`, without a prompt for a further answer.

    `arguments`: further arguments of the template. Raises CorpusError when the tokenizer has no
    template, or the template refuses the messages.
    """
    if tokenizer.chat_template is None:
        raise CorpusError(
            f"{where}: the tokenizer in {tokenizer.name_or_path} has no chat template to write "
            "conversations with; add the model's chat_template.jinja, or use plain text"
        )
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tools=[dict(tool) for tool in tools] or None,
            tokenize=False,
            **arguments,
        )
    except Exception as error:  # a template can fail in any way that a program can
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CorpusError(f"{where}: the chat template refuses the messages: {reason}") from error
    return str(text)
