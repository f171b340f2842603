"""On what loops are looked for: a part of a request."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.errors import RequestError
from secateur.system.settings import check_least

TOKENS = 2048
"""Tokens of a reply at most, its thought included; half of the context where that is less."""
GENERAL = "general"
"""The plan of prompts for models that bring no test set of their own."""


@dataclass(frozen=True)
class Loops:
    """`count` prompts, each answered `seeds` times, by the original and by every artefact.

    `prompts` is the name of a plan of prompts, a YAML file of one, or a JSONL file of
    conversations; by default the test set in the model's folder (gemmule has one), else the plan
    "general". `tokens` is how long a reply may be (default: `TOKENS`). `temperature` None is the
    model's own, and 1.0 where its own is 0; at 0 all seeds give one reply, so that `seeds` has to
    be 1. `seed` decides which prompts a plan makes. Raises RequestError for what cannot be.
    """

    prompts: str | None = None
    count: int = 300
    seeds: int = 3
    tokens: int | None = None
    temperature: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("seeds", 1), ("tokens", 1), ("seed", 0)):
            check_least(f"loops: {name}", getattr(self, name), least, RequestError)
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise RequestError(
                f"loops: temperature is {self.temperature}, expected a number of at least 0"
            )
        if self.temperature == 0 and self.seeds > 1:
            raise RequestError(
                f"loops: at temperature 0 all {self.seeds} seeds give one reply: give seeds 1, or "
                "a temperature above 0"
            )


def longest_reply(request: Loops, context: int | None) -> int:
    """Tokens of a reply at most, of a model with that context."""
    return request.tokens or min(TOKENS, (context or 2 * TOKENS) // 2)
