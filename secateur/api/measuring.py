"""What to measure, on what, and the limits to hold: a request, without anything that runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from secateur.corpus.held_out import HoldOut
from secateur.errors import InputError, RequestError
from secateur.evaluation.asking.request import NO_ORIGINAL, Serving
from secateur.evaluation.robustness.request import Loops
from secateur.evaluation.speed.request import Speed
from secateur.evaluation.tasks.request import Tasks
from secateur.serving.chat_server import is_url
from secateur.system.device_names import read_device
from secateur.system.settings import check_least

if TYPE_CHECKING:
    from collections.abc import Collection

    from secateur.evaluation.gate import Gate
    from secateur.release.evidence import Kind

ANSWER_TOKENS = 256
TEMPERATURE = 1.0
"""Answers are drawn from the model's own distribution, with a fixed seed: greedy ones of a small
model run in circles, and lie where the model is surest (docs/log.md)."""


Turns = Literal["auto", "original", "corpus"]


@dataclass(frozen=True)
class Measuring:
    """What to measure on, what, and the limits to hold.

    `prompts` are answered by the original first; `answers` were answered by it elsewhere. With
    neither, the test set in the model's folder is taken (gemmule has one), else a share of a
    corpus, `held_out` of its documents (default: 0.05; corpus.held_out), which is no part of the
    calibration. The corpus is `corpus` or `rows`, with `seed` in the place of its own, or else the
    one that is calibrated on. `turns` says whose turns of its conversations are measured: those
    that the "original" writes, or those of the "corpus" as they are; "auto" is the original where
    it can answer.

    It can where it fits in memory, or where `answers_from` names what answers for it: the address
    of a server that speaks OpenAI's protocol (with `answers_model` where it has several models),
    or a GGUF of the original, which llama.cpp runs. Answers have at most `answer_tokens` tokens,
    drawn at `temperature` (0: greedy) with `answer_seed`. `per_domain` takes that many of each
    domain, `max_prompts` so many of all, in turn from every domain. `real_engine` also runs GGUF
    files in llama.cpp and MLX folders in mlx-lm, over the same tokens, and compares. `device` is
    where our own path runs: auto, cpu, cuda, cuda:N or mps.

    `tasks` are asked in addition, `loops` looked for and `speed` measured, of the artefacts and
    the original beside them, which `serving` serves.

    `gates` are limits such as "kl_mean<=0.1" or "accuracy:gsm8k>=0.6" (evaluation.gate), of what is
    measured here or was measured of the same output before; `max_kl` is short for
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
    real_engine: bool = False
    device: str = "auto"
    held_out: float | None = None
    corpus: str | None = None
    rows: Path | None = None
    seed: int | None = None
    turns: Turns = "auto"
    answers_from: str | None = None
    answers_model: str | None = None
    answer_seed: int = 0
    max_prompts: int | None = None
    tasks: Tasks | None = None
    loops: Loops | None = None
    speed: Speed | None = None
    serving: Serving = Serving()

    def __post_init__(self) -> None:
        read_device(self.device)
        groups = ("prompts", "answers", "held_out"), ("prompts", "answers", "corpus", "rows")
        for group in groups:
            self._refuse_two(group)
        self._check_answering()
        for name in ("answer_tokens", "per_domain", "max_prompts"):
            check_least(name, getattr(self, name), 1, InputError)
        for name in ("answer_seed", "seed"):
            check_least(name, getattr(self, name), 0, InputError)
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature}, expected a number of at least 0")
        _ = self.limits

    def _refuse_two(self, group: tuple[str, ...]) -> None:
        named = [name for name in group if getattr(self, name)]
        if len(named) > 1:
            raise InputError(
                f"measuring takes either {named[0]} or {named[1]}, not both: leave one out"
            )

    def _check_answering(self) -> None:
        if self.turns not in get_args(Turns):
            raise InputError(f"turns is {self.turns!r}, expected {', '.join(get_args(Turns))}")
        if self.answers_from is not None and self.answers is not None:
            raise InputError(
                f"answers {self.answers} are answers already: leave out answers_from "
                f"{self.answers_from}"
            )
        if self.answers_from is not None and self.turns == "corpus":
            raise InputError(
                "turns of the corpus are measured as they are: leave out answers_from "
                f"{self.answers_from}, or turns corpus"
            )
        if self.prompts is not None and self.turns == "corpus":
            raise InputError(
                "turns of the corpus are those of a held-out share: leave out prompts "
                f"{self.prompts}, or turns corpus"
            )
        if self.max_prompts is not None and self.answers is not None:
            raise InputError(
                f"max_prompts is of prompts, and the answers of {self.answers} are all used: leave "
                "it out, or take some of each domain with per_domain"
            )
        if self.held_out is not None:
            HoldOut(self.held_out)
        self._refuse_unused()

    def _refuse_unused(self) -> None:
        """Raise InputError for what would decide nothing."""
        if self.seed is not None and self.corpus is None:
            raise InputError("seed is of a mix that is named here: name it with corpus")
        if self.answers_model is not None and not is_url(self.answers_from or ""):
            raise InputError(
                f"answers_model {self.answers_model} is what a server calls the original: give "
                "answers_from the address of the server, or leave answers_model out"
            )
        given = None
        if self.answers is not None:
            given = f"the answers of {self.answers} are measured as they are"
        elif self.turns == "corpus":
            given = "turns of the corpus are measured as they are"
        drawn = {"answer_tokens": ANSWER_TOKENS, "temperature": TEMPERATURE, "answer_seed": 0}
        odd = [name for name, default in drawn.items() if getattr(self, name) != default]
        if given is not None and odd:
            raise InputError(f"{given}, and nothing answers: leave out {odd[0]}")

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of evidence that are wanted besides divergence."""
        wanted: dict[Kind, Tasks | Loops | Speed | None] = {
            "tasks": self.tasks,
            "loops": self.loops,
            "speed": self.speed,
        }
        return tuple(kind for kind, one in wanted.items() if one is not None)

    def check_served(self) -> None:
        """Raise RequestError for names of models on servers, where files are served."""
        serving = self.serving
        if serving.model is not None:
            raise RequestError(
                f"served_model {serving.model} is of a server that is measured by its address: "
                "leave it out"
            )
        if serving.original_model is not None and not is_url(serving.original or ""):
            raise RequestError(
                f"original_model {serving.original_model} is what a server calls the original: "
                "give original the address of the server, or leave original_model out"
            )

    def check_limits(self, measured: Collection[str] = ()) -> None:
        """Raise InputError for a limit to what is neither wanted nor in `measured`, the kinds of
        evidence that there are already."""
        if limits := self.limits:
            from secateur.evaluation.gate import check_measured

            asked = self.serving.original != NO_ORIGINAL
            check_measured(limits, {*self.kinds, *measured}, asked)

    @property
    def limits(self) -> tuple[Gate, ...]:
        """All limits that are set."""
        if not (self.gates or self.max_kl is not None or self.min_top1 is not None):
            return ()
        from secateur.evaluation.gate import make_gate, parse_gate  # knows all metrics

        short = (("kl_mean", self.max_kl), ("top1_agreement", self.min_top1))
        named = tuple(make_gate(name, limit) for name, limit in short if limit is not None)
        return named + tuple(parse_gate(text) for text in self.gates)
