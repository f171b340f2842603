"""What a server's answer does not say of itself: text that it lost, a thought without an end.

llama.cpp's parser of chat answers drops all that follows a second end of a thought, and gives an
empty `content` for a thought that never ends, with `finish_reason: "stop"` if the model ended its
turn in it. With `verbose` and `return_tokens` in a request it also gives the whole text and the ids
of all tokens (in `__verbose`), without sampling anything more. What that holds and the message does
not is lost (benchmarks/serving_losses.py). A server that does not give them leaves it unknown,
which is not the same as nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from secateur.serving.settings import Thinking
from secateur.serving.thought_marks import ThoughtMarks

WHOLE: Mapping[str, Any] = {"verbose": True, "return_tokens": True}
"""Fields of a request to llama.cpp's server for an answer that says all that was generated."""

REASONING = ("reasoning_content", "reasoning")
"""What servers call the thought of a message: llama.cpp and vLLM, and mlx-lm."""

_MARKER = re.compile(r"<[^<>\s]+>")


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """Facts of one answer. None is unknown.

    `swallowed` is generated text that is in no field of the message. `unclosed` says that the
    thought has no end, so that there is no answer. `thought_tokens` is its length as a budget
    counts it; `budget_hit` whether the budget ended it. `seen` says what was looked at: the ids of
    all "tokens", or only the "message".
    """

    swallowed: str | None = None
    unclosed: bool | None = None
    thought_tokens: int | None = None
    budget_hit: bool | None = None
    seen: str = "message"

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def message_of(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message of a chat completion; an empty one where there is none."""
    choices = answer.get("choices") or [{}]
    message: Mapping[str, Any] = choices[0].get("message") or {}
    return message


def thought_of(message: Mapping[str, Any]) -> str:
    """The thought of a message, by whichever name."""
    return next((str(message[name]) for name in REASONING if message.get(name)), "")


def read_facts(
    answer: Mapping[str, Any],
    marks: ThoughtMarks | None,
    thinking: Thinking,
    message_tokens: int = 0,
) -> AnswerFacts:
    """The facts of a chat completion (JSON, not streamed), asked for with WHOLE where possible.

    `marks` are the model's (find_marks), `thinking` what was asked for, `message_tokens` the
    tokens of its message.
    """
    message = message_of(answer)
    verbose = answer.get("__verbose")
    if not isinstance(verbose, Mapping) or not isinstance(verbose.get("content"), str):
        return _from_message(message)
    text = verbose["content"]
    ids = verbose.get("tokens") or []
    parts = marks.split(ids) if marks is not None and ids else None
    thought = None if parts is None else len(parts[0])
    hit = None
    if thinking.budget is not None and parts is not None:
        hit = parts[1] is not None and len(parts[0]) >= thinking.budget + message_tokens
    return AnswerFacts(
        swallowed=_swallowed(text, message, marks),
        unclosed=parts is not None and parts[1] is None,
        thought_tokens=thought if parts is not None or marks is None else 0,
        budget_hit=hit,
        seen="tokens",
    )


def _from_message(message: Mapping[str, Any]) -> AnswerFacts:
    """What the message alone tells: with an answer or a call the thought has ended; a thought with
    nothing after it may have ended or not."""
    has_answer = bool(message.get("content") or message.get("tool_calls"))
    unclosed = False if has_answer or not thought_of(message) else None
    return AnswerFacts(unclosed=unclosed)


def _swallowed(text: str, message: Mapping[str, Any], marks: ThoughtMarks | None) -> str:
    """What follows the message's last words in all that was generated, without markers.

    Of an answer with tool calls it is what follows the last marker, as calls are rewritten.
    """
    if message.get("tool_calls"):
        rest = _MARKER.split(text)[-1]
        return "" if str(message.get("content") or "").strip().endswith(rest.strip()) else rest
    content, thought = (str(message.get("content") or "").strip(), thought_of(message).strip())
    at = text.find(thought) + len(thought) if thought else 0
    if content:
        found = text.find(content, at)
        at = found + len(content) if found >= 0 else at
    rest = text[at:]
    if marks is not None:
        rest = rest.replace(marks.opening_text, "")
    return _MARKER.sub("", rest).strip()
