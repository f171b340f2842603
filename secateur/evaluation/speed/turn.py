"""One turn of timing: a prompt read and an answer written by an engine in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


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
class TimedModel:
    """A model that is timed: `name` as in reports, the engine that runs it, and `take`, which takes
    a turn with a prompt's tokens and so many tokens of an answer, in a process started for it."""

    name: str
    engine: str
    take: Callable[[Sequence[int], int], Turn]
