"""A server that speaks OpenAI's protocol (vLLM, llama.cpp, SGLang, Ollama, a hoster), asked to
answer conversations. Its own chat template renders them; only text comes back."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

from secateur.errors import EngineError, RequestError

KEY = "OPENAI_API_KEY"
"""The variable of the environment that holds the key, where a server asks for one."""
RETRIES = 5
"""Further tries of a request that failed for a reason that may pass, each after a longer wait."""
ANSWER_SECONDS = 3600.0
_CONTACT_SECONDS = 30.0
_Found = TypeVar("_Found")
_LOCAL = ("localhost", "127.0.0.1", "::1")


class ChatAnswer(NamedTuple):
    """The message of the assistant, as a chat template takes it, and how it ended."""

    message: Mapping[str, Any]
    finish: str


class Drawing(NamedTuple):
    """How an answer is drawn: from the model's own distribution at a temperature, with a seed."""

    tokens: int
    temperature: float
    seed: int


def is_url(text: str) -> bool:
    """Whether a text is the address of a server, and not a path."""
    return text.startswith(("http://", "https://"))


def public_address(url: str) -> str:
    """The base of a server's API without a user and a password: http://host:8000/v1.

    Raises RequestError for what is no address.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise RequestError("a server is named by its address, as in http://localhost:8000/v1")
    named = f"[{host}]" if ":" in host else host
    where = named if port is None else f"{named}:{port}"
    return urlunsplit((parts.scheme, where, parts.path.rstrip("/") or "/v1", "", ""))


class NoAnswer(EngineError):
    """A server did not answer a request. `status` is HTTP's, None where there was no connection."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


class ChatServer(AbstractContextManager["ChatServer"]):
    """A connection to a server; may be used by several threads at a time.

    `address` is its public address, `model` the name of the model that answers.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        key: str | None = None,
        retries: int = RETRIES,
    ) -> None:
        """Connect. `key` takes the place of the environment's; a request that failed for a reason
        that may pass is sent again up to `retries` times. Raises EngineError when the server does
        not answer, RequestError when it has several models and none is named."""
        import openai

        self._key = key or os.environ.get(KEY) or "none"
        self.address = public_address(url)
        local = urlsplit(self.address).hostname in _LOCAL
        base = urlsplit(url)._replace(path=urlsplit(self.address).path, query="", fragment="")
        self._client = openai.OpenAI(
            base_url=urlunsplit(base),
            api_key=self._key,
            max_retries=retries,
            timeout=ANSWER_SECONDS,
            # A proxy of the environment must not see what goes to this machine.
            http_client=openai.DefaultHttpxClient(trust_env=not local),
        )
        self._more: dict[str, Any] = {"top_k": -1, "min_p": 0.0}
        self.model = model or self._find_model()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def answer(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        template: Mapping[str, Any],
        drawing: Drawing,
    ) -> ChatAnswer:
        """The next message of a conversation. Raises EngineError."""
        asked: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": drawing.tokens,
            "temperature": drawing.temperature,
            "seed": drawing.seed,
            "top_p": 1.0,
        }
        if tools:
            asked["tools"] = list(tools)
        return self._call(lambda: self._complete(asked, template))

    def complete(
        self, messages: Sequence[Mapping[str, Any]], fields: Mapping[str, Any]
    ) -> dict[str, Any]:
        """All of the server's answer to one chat request, whose other `fields` are sent as they
        are. Raises NoAnswer."""
        create: Any = self._client.chat.completions.create
        asked = {"model": self.model, "messages": list(messages), "extra_body": dict(fields)}
        answer: dict[str, Any] = self._call(lambda: create(**asked).model_dump())
        if not answer.get("choices"):
            raise NoAnswer(f"{self.address} answered without a choice: it is no chat server", None)
        return answer

    def stream(
        self, messages: Sequence[Mapping[str, Any]], fields: Mapping[str, Any]
    ) -> Generator[Any, None, None]:
        """As `complete`, in chunks as they come, the last one with the usage. Raises NoAnswer."""
        create: Any = self._client.chat.completions.create
        more = {"stream_options": {"include_usage": True}, **fields}
        chunks = self._call(
            lambda: create(model=self.model, messages=list(messages), stream=True, extra_body=more)
        )
        with chunks:
            each = iter(chunks)
            while (chunk := self._call(lambda: next(each, None))) is not None:
                yield chunk

    def _complete(self, asked: Mapping[str, Any], template: Mapping[str, Any]) -> ChatAnswer:
        import openai

        create: Any = self._client.chat.completions.create
        more = {**self._more, **({"chat_template_kwargs": dict(template)} if template else {})}
        try:
            found = create(**asked, extra_body=more)
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            if not self._more:
                raise
            # Some hosters refuse what is not OpenAI's own; then their defaults hold.
            found = create(**asked)
            self._more = {}
        if not getattr(found, "choices", None):
            raise EngineError(f"{self.address} answered without a choice: it is no chat server")
        choice = found.choices[0]
        message = choice.message.model_dump(exclude_none=True)
        return ChatAnswer(message, str(choice.finish_reason))

    def models(self) -> list[str]:
        """The names of the models that the server has. Raises NoAnswer."""
        return [str(model["id"]) for model in self._describe_models()]

    def describe(self) -> dict[str, Any]:
        """What the server says of its model, without its name and the time; empty where it says
        nothing. Raises NoAnswer when it cannot be reached."""
        try:
            found = self._describe_models()
        except NoAnswer as error:
            if error.status != 404:
                raise
            return {}
        said = next((model for model in found if model["id"] == self.model), {})
        left_out = ("id", "created", "root", "permission", "aliases", "tags")
        return {key: value for key, value in said.items() if key not in left_out}

    def _describe_models(self) -> list[dict[str, Any]]:
        """What the server says of each of its models."""
        client = self._client.with_options(timeout=_CONTACT_SECONDS, max_retries=1)
        return self._call(lambda: [model.model_dump() for model in client.models.list().data])

    def _find_model(self) -> str:
        names = self.models()
        if len(names) == 1:
            return names[0]
        raise RequestError(
            f"{self.address} has {len(names)} models ({', '.join(names[:8]) or 'none'}): name the "
            "one that is meant: --answers-model where it answers for the original, "
            "--original-model where it is asked as the original, --served-model where it is "
            "measured"
        )

    def _call(self, ask: Callable[[], _Found]) -> _Found:
        import openai

        status = None
        try:
            return ask()
        except openai.APIStatusError as error:
            status = error.status_code
            reason = f"status {error.status_code}: {_said(error.body) or error.message}"
            if error.status_code in (401, 403):
                reason += f" (the key is taken from the variable {KEY} of the environment)"
        except openai.APIConnectionError as error:
            reason = str(error.__cause__ or error)
        except openai.OpenAIError as error:
            reason = str(error)
        except (AttributeError, TypeError, ValueError):  # the client takes a page for a text
            reason = (
                "what came is no JSON of OpenAI's API; its base is named, as in "
                "http://localhost:8000/v1"
            )
        hidden = reason if self._key == "none" else reason.replace(self._key, "***")
        raise NoAnswer(f"{self.address} did not answer: {' '.join(hidden.split())[:300]}", status)


def _said(body: object) -> str:
    """The message of an error as most servers give it."""
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        said = inner.get("message") if isinstance(inner, Mapping) else inner
        return str(said or "")
    return str(body or "")
