"""A running server of one model: where it is, what it is, and asking it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from secateur.errors import EngineError, RequestError
from secateur.serving.http_json import ANSWER_SECONDS, request_json
from secateur.serving.identity import ServerIdentity
from secateur.serving.settings import Sampler


@dataclass(frozen=True)
class EngineServer:
    """A running server of one model. `address` is http://HOST:PORT; clients take `url`.

    `sampler` is how it draws where a request says nothing; `pid` is its process; `failure` says why
    it ended, None while it runs; `wait` returns when it has ended.
    """

    address: str
    api_key: str | None = field(repr=False)
    alias: str
    identity: ServerIdentity
    sampler: Sampler
    pid: int
    failure: Callable[[], str | None] = field(repr=False)
    wait: Callable[[], None] = field(repr=False)

    @property
    def url(self) -> str:
        """The base of OpenAI's API."""
        return f"{self.address}/v1"

    def ask(
        self,
        path: str,
        content: Mapping[str, Any] | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> Any:
        """The JSON of one of the engine's own endpoints, such as "/tokenize". Raises EngineError,
        which says so when the engine has ended."""
        try:
            return request_json(self.address + path, content, key=self.api_key, seconds=seconds)
        except EngineError:
            if ended := self.failure():
                raise EngineError(ended) from None
            raise

    def check_context(self, needed: int, what: str) -> None:
        """Raise RequestError when a slot has fewer than `needed` tokens for `what`."""
        have = self.identity.context
        if have is not None and have < needed:
            raise RequestError(
                f"{what} needs {needed} tokens of context, and the server has {have} per slot: "
                f"serve with a context of at least {needed}, or ask for less"
            )
