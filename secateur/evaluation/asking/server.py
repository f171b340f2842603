"""The model that is asked: an engine of ours, or any server that speaks OpenAI's protocol."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from secateur.errors import EngineError, RequestError
from secateur.evaluation.asking.question import Question
from secateur.evaluation.asking.rate import rate_answer
from secateur.evaluation.asking.reply import Reply, reply_of
from secateur.serving.answer_facts import WHOLE, read_facts
from secateur.serving.chat_server import ChatServer, NoAnswer
from secateur.serving.engine_server import EngineServer
from secateur.serving.llama_server import NAME
from secateur.serving.probe import Finding, Probe, probe_by_text, probe_thinking
from secateur.serving.settings import Thinking
from secateur.serving.thought_marks import ThoughtMarks, find_marks, tokenize

TRIES = 5
"""How often a request is sent whose failure may pass."""
_WAIT = 0.5
"""Seconds before the second try; each further wait is twice as long."""
_PASSING = (408, 409, 425, 429, 502, 503, 504)
"""HTTP states after which the same request may succeed; so may one that found no connection."""
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "dry_multiplier", "seed")

Wait = Callable[[float], None]


class AskedServer(AbstractContextManager["AskedServer"]):
    """A connection to the model that is asked; may be used by several threads at a time.

    `identity` is what a run lock holds of the server, `slots` how many requests it answers at a
    time.
    """

    def __init__(
        self,
        chat: ChatServer,
        identity: Mapping[str, Any],
        slots: int,
        engine: EngineServer | None = None,
        wait: Wait = time.sleep,
    ) -> None:
        self.chat, self.identity, self.slots, self._engine = chat, identity, slots, engine
        self._wait = wait

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.chat.__exit__(kind, error, trace)

    def ask(self, question: Question, sent: Mapping[str, Any]) -> Reply:
        """The reply to one question; an error of the server is a reply too.

        What may pass (no connection, a server that is busy) is tried a few times. Any other error
        of a server, such as a reply that does not fit its grammar, is tried once more where seed or
        temperature decide the reply: the same error again is one that it would give always.
        Raises EngineError only when the server is gone, or does not take the key.
        """
        fields = question.fields(sent)
        if "continuation" in fields and self._engine is not None:
            try:
                return rate_answer(self._engine, question.messages, fields["continuation"])
            except EngineError as error:
                self._check_running()
                return Reply(error=str(error))
        more = WHOLE if self._counts_tokens else {}
        seeded, before = "seed" in fields or fields.get("temperature") == 0, None
        for again in range(TRIES):
            started = time.monotonic()
            try:
                answer = self.chat.complete(question.messages, {**fields, **more})
                return self._read(answer, fields, time.monotonic() - started)
            except NoAnswer as error:
                if error.status in (401, 403):
                    raise
                passing = error.status is None or error.status in _PASSING
                failed = Reply(error=str(error), refused=_is_final(error.status))
                if not passing:
                    if failed.refused or not seeded:
                        return failed
                    if before is not None:  # the same twice of one seed: it would come again
                        return replace(failed, refused=failed.error == before)
                    before = failed.error
            if again + 1 < TRIES:
                self._check_running()
                self._wait(_WAIT * 2**again)
        self._check_answering(failed)
        return failed

    def check_context(self, questions: Sequence[Question]) -> None:
        """Raise RequestError when the longest question and its answer do not fit into a slot, as
        far as the server can count tokens."""
        if self._engine is None or not self._counts_tokens or not questions:
            return
        longest = max(questions, key=lambda one: len(json.dumps([one.messages, one.tools])))
        content = {"messages": list(longest.messages), "tools": list(longest.tools)}
        prompt = self._engine.ask("/apply-template", content)["prompt"]
        needed = len(tokenize(self._engine, prompt)) + 1
        needed += int(longest.arguments.get("max_tokens", 0))
        self._engine.check_context(needed, f"the longest question of {longest.task}")

    def check_rates(self, task: str) -> None:
        """Raise RequestError unless the server can rate answers that are given."""
        if not self._counts_tokens:
            raise RequestError(
                f"{task} compares log-probabilities of given answers, which only a GGUF served "
                "here gives: take a variant of the task that generates (such as mmlu_generative)"
            )

    def probe(self, thinking: Thinking) -> Probe:
        """Whether it does what every request asks of thinking. Raises EngineError."""
        if self._engine is not None:
            return probe_thinking(self._engine, thinking, as_set=False)

        def ask(body: Mapping[str, Any]) -> Mapping[str, Any]:
            ours = (*WHOLE, "messages", "cache_prompt")
            fields = {key: value for key, value in body.items() if key not in ours}
            return self.chat.complete(body["messages"], fields)

        try:
            return probe_by_text(ask, thinking)
        except NoAnswer as error:
            if error.status is None or error.status in (401, 403):
                raise
            return Probe("text and usage", (Finding("thinking", "unknown", str(error)),))

    @property
    def context(self) -> int | None:
        """Tokens that a slot has; None where the server does not say."""
        return None if self._engine is None else self._engine.identity.context

    @property
    def _counts_tokens(self) -> bool:
        return self.identity.get("engine") == NAME

    @cached_property
    def _marks(self) -> ThoughtMarks | None:
        return find_marks(self._engine) if self._engine and self._counts_tokens else None

    def _read(self, answer: Mapping[str, Any], fields: Mapping[str, Any], seconds: float) -> Reply:
        """The reply, with what the server lost of it as far as that can be seen."""
        message = str(fields.get("reasoning_budget_message") or "")
        thinking = Thinking(budget=fields.get("reasoning_budget_tokens"))
        count = 0
        if message and self._engine is not None and self._counts_tokens:
            count = len(tokenize(self._engine, message))
        verbose = answer.get("__verbose") or {}
        _check_sent(verbose.get("generation_settings") or {}, fields)
        return reply_of(answer, read_facts(answer, self._marks, thinking, count), seconds)

    def _check_running(self) -> None:
        if self._engine is not None and (ended := self._engine.failure()):
            raise EngineError(ended)

    def _check_answering(self, failed: Reply) -> None:
        """Raise EngineError when the server answers nothing at all any more."""
        try:
            self.chat.models()
        except NoAnswer as error:
            if error.status is None:
                raise EngineError(
                    f"{failed.error} (what was answered until now is kept: run the same command "
                    "again when the server is back)"
                ) from None


def ask_engine(engine: EngineServer) -> AskedServer:
    """A connection to an engine of ours. Raises EngineError."""
    chat = ChatServer(engine.url, engine.alias, key=engine.api_key, retries=0)
    identity = engine.identity.to_json()
    return AskedServer(chat, identity, engine.identity.slots, engine)


def ask_url(url: str, model: str | None = None, slots: int = 1) -> AskedServer:
    """A connection to any OpenAI-compatible server, whose build and flags are not known.

    Raises EngineError when it does not answer, RequestError when it has several models and none is
    named.
    """
    chat = ChatServer(url, model, retries=0)
    identity = {"engine": "unknown", "says": chat.describe(), "slots": slots}
    return AskedServer(chat, identity, slots)


def _check_sent(used: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Raise EngineError when a server did not draw as it was asked to, so that the lock is true."""
    for name in (one for one in _SAMPLING if one in used and one in fields):
        if not math.isclose(used[name], fields[name], rel_tol=1e-6, abs_tol=1e-7):
            raise EngineError(
                f"the server drew with {name} {used[name]:g} instead of {fields[name]:g}: "
                "answers like these are not what was asked for"
            )


def _is_final(status: int | None) -> bool:
    """Whether a request is refused for what is in it."""
    return status in (400, 413, 422)
