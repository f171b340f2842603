"""What came back for one question, and what kind of an answer it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from secateur.serving.answer_facts import AnswerFacts, message_of, thought_of


class Outcome(StrEnum):
    """Every question has exactly one. The first two are whole answers; a reader of answers makes
    `UNPARSED` of one in which it finds none."""

    ANSWERED = "answered"
    BUDGET = "budget hit"
    """the budget ended the thought; there is an answer after it"""
    EMPTY = "empty"
    """no text and no tool call, though the model ended by itself"""
    TRUNCATED = "truncated"
    """the limit of tokens, or the context, ended it"""
    UNPARSED = "unparsed"
    SWALLOWED = "swallowed"
    """the server left out a part of what the model wrote"""
    SERVER_ERROR = "server error"


WHOLE = (Outcome.ANSWERED, Outcome.BUDGET)


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's answer. `content` is without the thought, which is `reasoning`.

    `finish` is the server's finish reason; the counts are in tokens. `swallowed` is text that the
    server left out, `budget_hit` whether the budget ended the thought (serving.answer_facts); None
    in both and in the counts is what the server does not say. `loglikelihood` is that of an answer
    that was given and rated, in nats. `first_token` has the most probable
    first tokens of the answer with their log-probabilities, where they were asked for. `error` is
    the server's reason for no answer, `refused` says that it would always give it. `seconds` is the
    time until the answer was there.
    """

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    finish: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    thought_tokens: int | None = None
    swallowed: str | None = None
    budget_hit: bool | None = None
    loglikelihood: float | None = None
    first_token: Mapping[str, float] | None = None
    seconds: float = 0.0
    error: str | None = None
    refused: bool = False

    def to_json(self) -> dict[str, Any]:
        """As JSON, without what is as in a reply of nothing."""
        said = {one.name: (getattr(self, one.name), one.default) for one in fields(self)}
        return {name: value for name, (value, default) in said.items() if value != default}

    def facts(self) -> dict[str, Any]:
        """What the same question to the same model gives again: all but the time."""
        return {key: value for key, value in self.to_json().items() if key != "seconds"}


def read_reply(data: Mapping[str, Any]) -> Reply:
    """A reply of `to_json`. Raises TypeError for other keys."""
    calls = tuple(data.get("tool_calls", ()))
    return Reply(**{**data, "tool_calls": calls})


def reply_of(answer: Mapping[str, Any], facts: AnswerFacts, seconds: float) -> Reply:
    """The reply in a server's answer to a chat request (its first choice), with what was found in
    it besides."""
    choice, usage = answer["choices"][0], answer.get("usage") or {}
    message = message_of(answer)
    details = usage.get("completion_tokens_details") or {}
    logged = (choice.get("logprobs") or {}).get("content") or ()
    first = logged[0].get("top_logprobs") if logged else None
    return Reply(
        content=message.get("content") or "",
        reasoning=thought_of(message),
        tool_calls=tuple(message.get("tool_calls") or ()),
        finish=choice.get("finish_reason"),
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        thought_tokens=details.get("reasoning_tokens")
        if facts.thought_tokens is None
        else facts.thought_tokens,
        swallowed=facts.swallowed,
        budget_hit=facts.budget_hit,
        first_token={one["token"]: one["logprob"] for one in first} if first else None,
        seconds=seconds,
    )


def outcome_of(reply: Reply) -> Outcome:
    """The kind of an answer."""
    if reply.error is not None:
        return Outcome.SERVER_ERROR
    if reply.finish == "length":
        return Outcome.TRUNCATED
    if not reply.content.strip() and not reply.tool_calls:
        return Outcome.EMPTY
    if reply.swallowed:
        return Outcome.SWALLOWED
    if reply.budget_hit:
        return Outcome.BUDGET
    return Outcome.ANSWERED
