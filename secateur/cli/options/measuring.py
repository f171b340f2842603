"""Options: what is measured, on what, and the limits it must hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from secateur.cli.choices import complete, gates
from secateur.cli.options.calibration import Corpus, MixSeed, Rows

if TYPE_CHECKING:
    from secateur.api.requests import Measuring

MEASURING = "Measuring"

Prompts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Held-out prompts that the original answers first: JSONL, a line as "
        '{"domain": "code", "messages": [{"role": "user", "content": "..."}]}.',
        rich_help_panel=MEASURING,
    ),
]
Answers = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The original's own answers, instead: the same lines, each ending with a message of "
        'role "assistant".',
        rich_help_panel=MEASURING,
    ),
]
HeldOut = Annotated[
    float | None,
    typer.Option(
        "--held-out",
        metavar="SHARE",
        help="Share of the corpus' documents that is kept out of the calibration, to measure on. "
        "Where neither prompts nor answers are named: 0.05.",
        rich_help_panel=MEASURING,
    ),
]
Turns = Annotated[
    Literal["auto", "original", "corpus"],
    typer.Option(
        help="Whose turns of held-out conversations are measured: what the original answers, or "
        "what the corpus says. auto: the original's, where it fits in memory.",
        rich_help_panel=MEASURING,
    ),
]
AnswersFrom = Annotated[
    str | None,
    typer.Option(
        "--answers-from",
        metavar="URL|FILE.gguf",
        help="What answers for the original where it does not fit in memory: a server that speaks "
        "OpenAI's protocol (key: OPENAI_API_KEY), or a GGUF of it, run in llama.cpp.",
        rich_help_panel=MEASURING,
    ),
]
AnswersModel = Annotated[
    str | None,
    typer.Option(
        "--answers-model",
        metavar="NAME",
        help="What the server calls the original, where it has several models.",
        rich_help_panel=MEASURING,
    ),
]
AnswerSeed = Annotated[
    int,
    typer.Option(
        "--answer-seed",
        min=0,
        metavar="N",
        help="Seed that the original's answers are drawn with.",
        rich_help_panel=MEASURING,
    ),
]
MaxPrompts = Annotated[
    int | None,
    typer.Option(
        "--max-prompts",
        min=1,
        metavar="N",
        help="Take so many of all only, in turn from every domain.",
        rich_help_panel=MEASURING,
    ),
]
PerDomain = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Take so many of each domain only.", rich_help_panel=MEASURING
    ),
]
AnswerTokens = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="Tokens of an answer at most; models that think first need thousands.",
        rich_help_panel=MEASURING,
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        min=0,
        metavar="T",
        help="Temperature at which the original answers; 0 takes the most probable token.",
        rich_help_panel=MEASURING,
    ),
]
RealEngine = Annotated[
    bool,
    typer.Option(
        "--real-engine",
        help="Also run the same tokens in the real engine, llama.cpp or mlx-lm, and show what it "
        "loses beside what our own path finds.",
        rich_help_panel=MEASURING,
    ),
]
QualityGates = Annotated[
    list[str] | None,
    typer.Option(
        "--gate",
        metavar="METRIC<=N",
        autocompletion=complete(gates),
        help="Exit with 3 when a number misses its limit: kl_p99<=1.5, accuracy:gsm8k>=0.6 (one "
        "task), accuracy_difference.low>=-0.02 (the lower end of its interval), loop_rate<=0.01; "
        "may be repeated.",
        rich_help_panel=MEASURING,
    ),
]
MaxKl = Annotated[
    float | None,
    typer.Option(metavar="NATS", help="Short for --gate kl_mean<=NATS.", rich_help_panel=MEASURING),
]
MinTop1 = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE", help="Short for --gate top1_agreement>=SHARE.", rich_help_panel=MEASURING
    ),
]
NoMeasure = Annotated[
    bool,
    typer.Option(
        "--no-measure", help="Write the files and measure nothing.", rich_help_panel=MEASURING
    ),
]


@dataclass(frozen=True)
class AnswerOptions:
    """What is measured on."""

    prompts: Prompts = None
    answers: Answers = None
    held_out: HeldOut = None
    turns: Turns = "auto"
    answers_from: AnswersFrom = None
    answers_model: AnswersModel = None
    answer_tokens: AnswerTokens = 256
    temperature: Temperature = 1.0
    answer_seed: AnswerSeed = 0
    per_domain: PerDomain = None
    max_prompts: MaxPrompts = None

    def request(self, **more: Any) -> Measuring:
        """With `more` of a Measuring."""
        from secateur.api.requests import Measuring

        return Measuring(**vars(self), **more)


@dataclass(frozen=True)
class HeldOutOptions:
    """The corpus that holds out what is measured on."""

    corpus: Corpus = None
    rows: Rows = None
    seed: MixSeed = None


@dataclass(frozen=True)
class GateOptions:
    """What is run in addition, and the limits that numbers must hold."""

    real_engine: RealEngine = False
    quality_gates: QualityGates = None
    max_kl: MaxKl = None
    min_top1: MinTop1 = None

    def words(self) -> dict[str, Any]:
        """As arguments of a Measuring."""
        return {
            "real_engine": self.real_engine,
            "gates": tuple(self.quality_gates or ()),
            "max_kl": self.max_kl,
            "min_top1": self.min_top1,
        }
