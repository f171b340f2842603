"""What a server of a model is asked for: thinking, sampling, context, and who may call it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from secateur.errors import RequestError
from secateur.system.settings import check_least

CONTEXT = 32768
"""Tokens of context per slot where none are named, if the model was trained for as many."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts that only this machine can reach."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """Whether a model thinks before it answers, for how long, and what ends it.

    `enabled` None leaves it to the chat template. `budget` is the most tokens of a thought, None
    for as many as the model wants; 0 closes the thought at once. `message` is written into the
    thought where the budget ends it. Raises RequestError for what cannot be.
    """

    enabled: bool | None = None
    budget: int | None = None
    message: str = ""

    def __post_init__(self) -> None:
        check_least("reasoning_budget", self.budget, 0, RequestError)
        if self.message and self.budget is None:
            raise RequestError(
                "reasoning_message is written where the budget ends a thought: give "
                "reasoning_budget, or leave it out"
            )
        if self.enabled is False and self.budget is not None:
            raise RequestError(
                f"thinking is off, and reasoning_budget is {self.budget}: leave one of them out"
            )

    def request(self) -> dict[str, Any]:
        """The same as fields of one chat request, as llama.cpp's server takes them."""
        asked: dict[str, Any] = {}
        if self.enabled is not None:
            asked["chat_template_kwargs"] = {"enable_thinking": self.enabled}
        if self.budget is not None:
            asked["reasoning_budget_tokens"] = self.budget
            asked["reasoning_budget_message"] = self.message
        return asked


@dataclass(frozen=True, slots=True)
class Sampler:
    """How the next token is drawn. None is the model's own default (serving.model_defaults).

    `temperature` 0 takes the most probable token; `top_k` 0 and `top_p` 1 cut nothing, nor does
    `min_p` 0; `repeat_penalty` 1 and `dry_multiplier` 0 are none. `seed` None is another one for
    every request. Raises RequestError for what cannot be.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    dry_multiplier: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, least, most in _RANGES:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and least <= value <= most):
                upper = "" if math.isinf(most) else f" and at most {most:g}"
                raise RequestError(f"{name} is {value:g}, expected at least {least:g}{upper}")
        check_least("seed", self.seed, 0, RequestError)

    def over(self, other: Self) -> Self:
        """This one, with what it does not say taken from another."""
        said = {one.name: getattr(self, one.name) for one in fields(self)}
        return replace(other, **{name: value for name, value in said.items() if value is not None})

    def request(self) -> dict[str, Any]:
        """What it says, as fields of a request, as llama.cpp's server calls them."""
        return {name: value for name, value in asdict(self).items() if value is not None}


_RANGES = (
    ("temperature", 0, math.inf),
    ("top_k", 0, math.inf),
    ("top_p", 0, 1),
    ("min_p", 0, 1),
    ("repeat_penalty", 0, math.inf),
    ("dry_multiplier", 0, math.inf),
)

NEUTRAL = Sampler(
    temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0, dry_multiplier=0.0
)
"""Draws from the model's own distribution."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How a model is served.

    `context`: tokens of prompt and answer together that each of `slots` has (requests beyond so
    many wait); None: 32,768, or what the model was trained for if that is less. `workers`: threads
    (default: all cores). `gpu_layers`: layers that run on a GPU, None for as many as fit where
    xllamacpp was built for one. `port` 0 takes a free one. `api_key` is asked of every request,
    and has to be there where `host` is not the loopback. `alias` is the model's name to clients.
    `mmproj` is the GGUF of a vision tower, with which a GGUF of the model sees images.
    Raises RequestError for what cannot be.
    """

    context: int | None = None
    slots: int = 1
    workers: int | None = None
    gpu_layers: int | None = None
    thinking: Thinking = Thinking()
    sampler: Sampler = Sampler()
    host: str = "127.0.0.1"
    port: int = 0
    api_key: str | None = field(default=None, repr=False)
    alias: str | None = None
    mmproj: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("context", 1), ("slots", 1), ("workers", 1), ("gpu_layers", 0)):
            check_least(name, getattr(self, name), least, RequestError)
        if not 0 <= self.port < 1 << 16:
            raise RequestError(f"port is {self.port}, expected 0 to 65535")
        if self.api_key is not None and (not self.api_key.strip() or len(self.api_key.split()) > 1):
            raise RequestError("the API key is empty or has blanks in it: give one word")
        if self.host not in LOOPBACK and self.api_key is None:
            raise RequestError(
                f"host {self.host} can be reached from other machines, so an API key is needed: "
                "give api_key (--api-key-file FILE makes one), or serve on 127.0.0.1"
            )


DEFAULT_SETTINGS = ServerSettings()
