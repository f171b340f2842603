"""How speed is measured: a part of a request."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.errors import RequestError
from secateur.system.settings import check_least


@dataclass(frozen=True)
class Speed:
    """A prompt of `prompt_tokens`, an answer of `answer_tokens`, `turns` times of every model in
    alternation. Raises RequestError for a number too small."""

    prompt_tokens: int = 512
    answer_tokens: int = 128
    turns: int = 5

    def __post_init__(self) -> None:
        for name, least in (("prompt_tokens", 2), ("answer_tokens", 2), ("turns", 1)):
            check_least(f"speed: {name}", getattr(self, name), least, RequestError)
