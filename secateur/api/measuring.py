"""What to measure on, and the limits to hold: a user's request, without anything that runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measuring:
    """What to measure on, and the limits to hold.

    `prompts` are answered by the original first, `answers` were answered by it elsewhere; with
    neither, the test set that lies beside the model is taken (gemmule has one). `per_domain`
    takes that many of each domain. Limits: mean KL in nats at most, top-1 agreement at least.
    """

    prompts: Path | None = None
    answers: Path | None = None
    per_domain: int | None = None
    max_kl: float | None = None
    min_top1: float | None = None

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, as the gate calls them."""
        named = {"max_mean_kl": self.max_kl, "min_top1": self.min_top1}
        return {name: value for name, value in named.items() if value is not None}
