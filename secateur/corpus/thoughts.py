"""How a model's chat format writes a thought before an answer.

Teacher forcing runs the model over a question, a chain of thought and the answer, but many chat
templates drop thoughts. So the thought is written in one of three ways, the first that applies:

1. the mix's own `thought: "<opening>{thought}<closing>"`;
2. by the chat template itself, if it writes the thought of a last message (None below);
3. the format in `thought_formats.yaml` whose markers are all tokens of the tokenizer.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from secateur.corpus.chat_template import render_chat
from secateur.errors import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
"""The names under which chat templates look for a message's thought."""

_FORMATS = Path(__file__).parent / "thought_formats.yaml"
_MARKER = re.compile(r"<[^<>\s]+>")


def find_thought_format(tokenizer: PreTrainedTokenizerBase, explicit: str | None) -> str | None:
    """The format, with one `{thought}` in it; None when the chat template writes thoughts.

    Raises CorpusError when the tokenizer has not the markers of any known format.
    """
    if explicit is not None:
        return explicit
    if _template_writes_thoughts(tokenizer):
        return None
    vocabulary = tokenizer.get_vocab()
    for form in known_formats():
        if all(marker in vocabulary for marker in markers_of(form)):
            return form
    raise CorpusError(
        "the mix has thoughts, but neither the chat template nor the vocabulary says how this "
        'model writes them; set `thought: "<opening>{thought}<closing>"` in the mix'
    )


def known_formats() -> list[str]:
    """How models write thoughts, each with one `{thought}` in it, in the order to try them."""
    formats: list[str] = yaml.safe_load(_FORMATS.read_text(encoding="utf-8"))
    return formats


def markers_of(form: str) -> list[str]:
    """What looks like a special token in a format, in order."""
    return _MARKER.findall(form)


def find_unknown_markers(form: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What looks like a special token in a format but is none of this tokenizer's."""
    vocabulary = tokenizer.get_vocab()
    return [marker for marker in markers_of(form) if marker not in vocabulary]


def _template_writes_thoughts(tokenizer: PreTrainedTokenizerBase) -> bool:
    thought = "SECATEURTHOUGHT"
    answer: dict[str, Any] = {"role": "assistant", "content": "answer"}
    answer |= dict.fromkeys(THOUGHT_KEYS, thought)
    messages = [{"role": "user", "content": "question"}, answer]
    return thought in render_chat(tokenizer, messages, (), {}, "thoughts of the mix")
