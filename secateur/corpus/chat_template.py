"""Conversations to text, by the chat template of a model: a program that came with it.

Templates want the arguments of a tool call in one of two forms. Most take an object and write its
members, or its JSON; some (DeepSeek's) join it to other text, which fails for an object. Which
form a template wants is found out by a conversation made for that, once per template, so it does
not depend on the corpus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from secateur.corpus.tools import write_arguments
from secateur.errors import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, Any]]

_PROBE = {"secateurkey": "secateurvalue"}


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    tools: Messages,
    arguments: Mapping[str, Any],
    where: str,
) -> str:
    """What the template writes for `messages`, without a prompt for a further answer.

    `arguments`: further arguments of the template. The arguments of tool calls are given to the
    template as objects, or as text if it wants that. Raises CorpusError when the tokenizer has no
    template, or the template refuses the messages.
    """
    if tokenizer.chat_template is None:
        raise CorpusError(
            f"{where}: the tokenizer in {tokenizer.name_or_path} has no chat template to write "
            "conversations with; add the model's chat_template.jinja, or use plain text"
        )
    if any(message.get("tool_calls") for message in messages) and _wants_text(
        tokenizer, str(tokenizer.chat_template)
    ):
        messages = write_arguments(messages)
    try:
        return _render(tokenizer, messages, tools, arguments)
    except Exception as error:  # a template can fail in any way that a program can
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CorpusError(f"{where}: the chat template refuses the messages: {reason}") from error


def loses_tool_calls(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    tools: Messages,
    arguments: Mapping[str, Any],
) -> bool:
    """True when the template writes the conversation, but not the name of one of its tool calls.

    Takes one rendering more, with names that occur nowhere else.
    """
    names: list[str] = []
    renamed: list[Mapping[str, Any]] = []
    for message in messages:
        calls = []
        for call in message.get("tool_calls") or ():
            names.append(f"secateur_call_{len(names)}_end")
            calls.append({**call, "function": {**call["function"], "name": names[-1]}})
        renamed.append({**message, "tool_calls": calls} if calls else message)
    if not names:
        return False
    try:
        text = render_chat(tokenizer, renamed, tools, arguments, "tool calls")
    except CorpusError:
        return False  # it looks at the names, so it does not pass over the calls
    return any(name not in text for name in names)


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    tools: Messages,
    arguments: Mapping[str, Any],
) -> str:
    text = tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        tools=[dict(tool) for tool in tools] or None,
        tokenize=False,
        **arguments,
    )
    return str(text)


@lru_cache(maxsize=8)
def _wants_text(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """True when `template`, the tokenizer's, fails for arguments that are an object, or writes
    Python's own form of it, and does neither for text. (The template is part of the cache's key.)
    """
    call = {
        "id": "call00000",  # some templates insist on nine letters or digits
        "type": "function",
        "function": {"name": "secateur_call", "arguments": _PROBE},
    }
    asked: dict[str, Any] = {"role": "user", "content": "question"}
    called: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [call]}
    returned: dict[str, Any] = {"role": "tool", "tool_call_id": call["id"], "content": "x"}
    for messages in ([asked, called, returned], [asked, called]):
        if _renders(tokenizer, messages):
            return False
        if _renders(tokenizer, write_arguments(messages)):
            return True
    return False


def _renders(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> bool:
    try:
        return str(_PROBE) not in _render(tokenizer, messages, [], {})
    except Exception:  # see render_chat
        return False
