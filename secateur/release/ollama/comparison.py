"""Whether a Go template writes what the chat template of a model writes, conversation by
conversation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from secateur.release.ollama.conversations import (
    Conversation,
    conversations,
    for_jinja,
    for_ollama,
)
from secateur.release.ollama.go_template.evaluate import render
from secateur.release.ollama.go_template.nodes import GoTemplateError, Template
from secateur.release.ollama.model_file import ModelFile


@dataclass(frozen=True)
class Comparison:
    """Names of conversations: written the same, written otherwise, refused by the model's own
    template. `needs` is what any of the same ones needed (`Conversation.needs`)."""

    same: tuple[str, ...]
    different: tuple[str, ...]
    refused: tuple[str, ...]
    needs: frozenset[str]

    @property
    def equal(self) -> bool:
        """At least a question and a conversation of several turns, and nothing otherwise."""
        return not self.different and len(self.same) >= 2


def abilities(template: Template) -> frozenset[str]:
    """What a Go template can do beyond turns, as Ollama decides it: by the names that it reads."""
    names = template.names()
    found = {"thinking": "Thinking", "tools": "Tools"}
    return frozenset({"system", *(word for word, name in found.items() if name in names)})


def jinja_abilities(template: str) -> frozenset[str]:
    """What a model's own template can do, by the variables that it reads."""
    found = {"thinking": "enable_thinking", "tools": "tools"}
    return frozenset({"system", *(word for word, name in found.items() if name in template)})


def compare(template: Template, model: ModelFile) -> Comparison:
    """Render all conversations that both templates can do with both, and compare the texts.

    Equal texts are equal tokens: the file's own tokenizer reads both. A model that has not learnt
    to be told whether to think is told nothing.
    """
    own = model.template or ""
    can = abilities(template) & jinja_abilities(own)
    same, different, refused = [], [], []
    needs: set[str] = set()
    for conversation in conversations("thinking" in can):
        if not conversation.needs <= can:
            continue
        expected = render_own(model, conversation)
        if expected is None:
            refused.append(conversation.name)
        elif _rendered(template, conversation) == expected:
            same.append(conversation.name)
            needs |= conversation.needs
        else:
            different.append(conversation.name)
    return Comparison(tuple(same), tuple(different), tuple(refused), frozenset(needs))


def render_own(model: ModelFile, conversation: Conversation) -> str | None:
    """What the model's own template writes before its next turn, without the first token that
    llama.cpp adds by itself; None where the template refuses the conversation."""
    from transformers.utils.chat_template_utils import render_jinja_template

    template = model.template or ""
    told = {} if conversation.thinking is None else {"enable_thinking": conversation.thinking}
    settings: dict[str, Any] = {"bos_token": model.bos, "eos_token": model.eos, **told}
    try:
        found: Any = render_jinja_template(
            [for_jinja(conversation, template)],
            tools=[dict(tool) for tool in conversation.tools] or None,
            chat_template=template,
            add_generation_prompt=True,
            **settings,
        )
    except Exception:  # a template can fail in any way that a program can
        return None
    text = str(found[0][0])
    return text.removeprefix(model.bos) if model.begins else text


def _rendered(template: Template, conversation: Conversation) -> str | None:
    try:
        return render(template, for_ollama(conversation))
    except GoTemplateError:
        return None
