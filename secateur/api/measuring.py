"""What to measure, on what, and the limits to hold: a request, without anything that runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from secateur.errors import InputError
from secateur.evaluation.gate import Gate, make_gate, parse_gate
from secateur.system.device_names import read_device
from secateur.system.settings import check_least

ANSWER_TOKENS = 256
TEMPERATURE = 1.0
"""Answers are drawn from the model's own distribution, with a fixed seed: greedy ones of a small
model run in circles, and lie where the model is surest (docs/log.md)."""


@dataclass(frozen=True)
class Measuring:
    """What to measure on, what, and the limits to hold.

    `prompts` are answered by the original first, with at most `answer_tokens` tokens each, drawn
    at `temperature` (0: greedy); `answers` were answered by it elsewhere. With neither, the test
    set in the model's folder is taken (gemmule has one). `per_domain` takes that many of each
    domain. `engine` also runs GGUF files in llama.cpp and compares. `device` is where the models
    run: auto, cpu, cuda, cuda:N or mps.

    `gates` are limits such as "kl_mean<=0.1" (evaluation.gate); `max_kl` is short for
    "kl_mean<=...", in nats, and `min_top1` for "top1_agreement>=...". Raises InputError for a
    value that cannot be.
    """

    prompts: Path | None = None
    answers: Path | None = None
    per_domain: int | None = None
    max_kl: float | None = None
    min_top1: float | None = None
    gates: tuple[str, ...] = ()
    answer_tokens: int = ANSWER_TOKENS
    temperature: float = TEMPERATURE
    engine: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        read_device(self.device)
        if self.prompts is not None and self.answers is not None:
            raise InputError("measuring takes either prompts or answers, not both: leave one out")
        for name in ("answer_tokens", "per_domain"):
            check_least(name, getattr(self, name), 1, InputError)
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature}, expected a number of at least 0")
        _ = self.limits

    @property
    def limits(self) -> tuple[Gate, ...]:
        """All limits that are set."""
        short = (("kl_mean", self.max_kl), ("top1_agreement", self.min_top1))
        named = tuple(make_gate(name, limit) for name, limit in short if limit is not None)
        return named + tuple(parse_gate(text) for text in self.gates)
