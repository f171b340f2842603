"""Prompts as questions to a server, and its replies as detectors see them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.evaluation.asking.question import Question
from secateur.evaluation.asking.reply import Reply
from secateur.evaluation.robustness.detectors.base import Call, Exchange
from secateur.evaluation.robustness.prompts import LoopPrompt
from secateur.evaluation.robustness.rates import JudgedReply
from secateur.evaluation.robustness.request import Loops
from secateur.evaluation.robustness.verdict import Verdict, judge
from secateur.serving.settings import Sampler

TASK = "loops"


@dataclass(frozen=True, slots=True)
class LoopItem:
    """One reply to a prompt: `seed` is the one it was drawn with, `verdict` None where the server
    gave an error."""

    prompt: LoopPrompt
    seed: int
    reply: Reply
    verdict: Verdict | None

    def judged(self) -> JudgedReply:
        """What rates are made of."""
        tokens = self.reply.completion_tokens
        name = f"{self.prompt.domain}/{self.prompt.id}"
        return JudgedReply(name, self.prompt.domain, self.verdict, tokens)

    def to_json(self) -> dict[str, Any]:
        """As JSON: the same question to the same model gives it again."""
        found: dict[str, Any] = {
            "prompt": self.prompt.id,
            "domain": self.prompt.domain,
            "seed": self.seed,
            "question": _text(self.prompt.messages[-1]),
        }
        found |= {"verdict": "server error"} if self.verdict is None else self.verdict.to_json()
        facts = self.reply.facts()
        return {**found, "reply": {**facts, "error": self.error} if self.error else facts}

    @property
    def error(self) -> str | None:
        """Why the server gave no reply, without its address, whose port is another in every run."""
        reason = self.reply.error
        return reason and (reason.partition("did not answer: ")[2] or reason)


def questions_of(
    prompts: Sequence[LoopPrompt], request: Loops, tokens: int
) -> tuple[Question, ...]:
    """Every prompt once with every seed, as `items_of` expects them."""
    return tuple(
        Question(
            TASK,
            f"{prompt.domain}/{prompt.id}/{seed}",
            prompt.messages,
            prompt.tools,
            {"max_tokens": tokens, "seed": seed},
        )
        for prompt in prompts
        for seed in range(request.seeds)
    )


def items_of(
    prompts: Sequence[LoopPrompt], request: Loops, replies: Sequence[Reply]
) -> tuple[LoopItem, ...]:
    """The replies to `questions_of`, judged."""
    asked = ((prompt, seed) for prompt in prompts for seed in range(request.seeds))
    return tuple(
        LoopItem(prompt, seed, reply, None if reply.error else judge(exchange_of(prompt, reply)))
        for (prompt, seed), reply in zip(asked, replies, strict=True)
    )


def loop_sampler(request: Loops, own: Sampler) -> Sampler:
    """How replies are drawn: as the model's files say, at the temperature of the request."""
    temperature = request.temperature
    if temperature is None:
        temperature = own.temperature or 1.0
    return Sampler(temperature=temperature).over(own)


def exchange_of(prompt: LoopPrompt, reply: Reply) -> Exchange:
    """A reply and what it answers, for detectors."""
    return Exchange(
        prompt=_text(prompt.messages[-1]),
        content=reply.content,
        reasoning=reply.reasoning,
        swallowed=reply.swallowed or "",
        calls=tuple(_calls(reply.tool_calls)),
        earlier_calls=_earlier_calls(prompt.messages),
        finish=reply.finish or "stop",
        copies=prompt.copies,
    )


def _earlier_calls(messages: Sequence[Mapping[str, Any]]) -> tuple[Call, ...]:
    """The calls of the turns that the conversation ends with and that are nothing but calls."""
    found: list[Call] = []
    for message in reversed(messages):
        if message["role"] == "assistant" and message.get("tool_calls"):
            found[:0] = _calls(message["tool_calls"])
        elif message["role"] != "tool":
            break
    return tuple(found)


def _calls(calls: Sequence[Mapping[str, Any]]) -> Iterator[Call]:
    for call in calls:
        function = call.get("function") or call
        arguments = function.get("arguments") or ""
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        yield Call(str(function.get("name", "")), text)


def _text(message: Mapping[str, Any]) -> str:
    """The text of a message, of which content may be parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
