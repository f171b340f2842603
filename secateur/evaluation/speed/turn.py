"""One turn of timing: a prompt read and an answer written by an engine in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from secateur.errors import RequestError
from secateur.system.settings import check_least


@dataclass(frozen=True, slots=True)
class SpeedSettings:
    """A prompt of `prompt_tokens`, an answer of `answer_tokens`, `turns` times. `workers`: threads
    of the engine (default: all cores), `gpu_layers` as in `serving.settings`.

    Raises RequestError for a number too small."""

    prompt_tokens: int = 512
    answer_tokens: int = 128
    turns: int = 5
    workers: int | None = None
    gpu_layers: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("prompt_tokens", 2), ("answer_tokens", 2), ("turns", 1)):
            check_least(f"speed_{name}", getattr(self, name), least, RequestError)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn took. Seconds of reading the prompt and of writing the answer are the engine's
    own; `first_token` is from the request to the first token at the client. CPU seconds are of the
    engine's process, None where the system does not tell; so is `peak_memory`, in bytes."""

    prompt_tokens: int
    answer_tokens: int
    prompt_seconds: float
    answer_seconds: float
    first_token: float
    prompt_cpu: float | None
    answer_cpu: float | None
    peak_memory: int | None

    @property
    def prefill(self) -> float:
        """Tokens of the prompt per second."""
        return self.prompt_tokens / self.prompt_seconds

    @property
    def generation(self) -> float:
        """Tokens of the answer per second."""
        return self.answer_tokens / self.answer_seconds

    def to_json(self) -> dict[str, Any]:
        """A mapping that `json` can write."""
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """Something that is timed: `name` as in reports, the engine that runs it, and how a turn is
    taken with a prompt's tokens, in a process that is started for it."""

    name: str
    engine: str
    path: Path
    take: Callable[[Path, Sequence[int], SpeedSettings], Turn]
