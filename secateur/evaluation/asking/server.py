"""The model that is asked: an engine of ours, or any server that speaks OpenAI's protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from secateur.errors import EngineError
from secateur.evaluation.asking.question import Question
from secateur.evaluation.asking.reply import Reply, reply_of
from secateur.serving.chat_server import ChatServer, NoAnswer
from secateur.serving.engine_server import EngineServer

TRIES = 5
"""How often a request is sent whose failure may pass."""
_WAIT = 0.5
"""Seconds before the second try; each further wait is twice as long."""
_PASSING = (408, 409, 425, 429, 502, 503, 504)
"""HTTP states after which the same request may succeed; so may one that found no connection."""
_TAGS = 8
"""Tokens around thought and answer that no field shows: marks of the channel, end of the turn."""

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
        self.chat, self.identity, self.slots, self.engine = chat, identity, slots, engine
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

        Raises EngineError only when the server is gone, or does not take the key.
        """
        fields = question.fields(sent)
        for again in range(TRIES):
            started = time.monotonic()
            try:
                answer = self.chat.complete(question.messages, fields)
                return self._counted(reply_of(answer, time.monotonic() - started))
            except NoAnswer as error:
                if error.status in (401, 403):
                    raise
                passing = error.status is None or error.status in _PASSING
                failed = Reply(error=str(error), refused=_is_final(error.status))
                if not passing:
                    return failed
            if again + 1 < TRIES:
                self._check_running()
                self._wait(_WAIT * 2**again)
        self._check_answering(failed)
        return failed

    def _counted(self, reply: Reply) -> Reply:
        """With the tokens of the thought and those that are in no field, where the server counts
        tokens for us."""
        if self.engine is None or reply.completion_tokens is None or reply.tool_calls:
            return reply
        thought, content = (self._tokens(text) for text in (reply.reasoning, reply.content))
        lost = reply.completion_tokens - thought - content
        return replace(
            reply,
            thought_tokens=reply.thought_tokens or thought,
            lost_tokens=lost if lost > _TAGS else 0,
        )

    def _tokens(self, text: str) -> int:
        if not text or self.engine is None:
            return 0
        return len(self.engine.ask("/tokenize", {"content": text, "parse_special": True})["tokens"])

    def _check_running(self) -> None:
        if self.engine is not None and (ended := self.engine.failure()):
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
    identity = {"engine": "unknown", "address": chat.address, "model": chat.model, "slots": slots}
    return AskedServer(chat, identity, slots)


def _is_final(status: int | None) -> bool:
    """Whether a request is refused for what is in it."""
    return status in (400, 413, 422)
