"""Options: how a model is served, how it thinks and how its tokens are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from secateur.serving.settings import Sampler, Thinking

ENGINE, THINKING, SAMPLING = "Engine", "Thinking", "Sampling"

ServedFile = Annotated[
    str | None,
    typer.Argument(
        metavar="FILE",
        help="Which of several models in the output: a file's name, or a part of it such as "
        "Q4_K_M.",
    ),
]
SlotContext = Annotated[
    int | None,
    typer.Option(
        "--context",
        min=1,
        metavar="TOKENS",
        help="Tokens of prompt and answer together that each request may have. Default: 32768, or "
        "what the model was trained for if that is less.",
        rich_help_panel=ENGINE,
    ),
]
GpuLayers = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Layers that run on a GPU. Default: as many as fit, where xllamacpp was built for "
        "one; 0 is the CPU alone.",
        rich_help_panel=ENGINE,
    ),
]
EngineThreads = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        metavar="N",
        help="Threads of the engine. Default: all cores.",
        rich_help_panel=ENGINE,
    ),
]
Log = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="What the engine's log is added to. Default: a file of ~/.local/state/secateur.",
        rich_help_panel=ENGINE,
    ),
]
ThinkingWord = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(
        "--thinking",
        help="Whether the model thinks before it answers; auto leaves it to its chat template.",
        rich_help_panel=THINKING,
    ),
]
ReasoningBudget = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="TOKENS",
        help="End a thought after so many tokens. Default: never.",
        rich_help_panel=THINKING,
    ),
]
ReasoningMessage = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="What is written into a thought where the budget ends it.",
        rich_help_panel=THINKING,
    ),
]
OwnTemperature = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        min=0,
        metavar="T",
        help="0 takes the most probable token. Default, as of all below: what the model's own "
        "files say.",
        rich_help_panel=SAMPLING,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Draw from the N most probable tokens; 0: from all.",
        rich_help_panel=SAMPLING,
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        metavar="P",
        help="Draw from the most probable tokens that have P together.",
        rich_help_panel=SAMPLING,
    ),
]
MinP = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        metavar="P",
        help="Leave out tokens less probable than P times the most probable one.",
        rich_help_panel=SAMPLING,
    ),
]
RepeatPenalty = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Make tokens of the last 64 less probable; 1: no penalty.",
        rich_help_panel=SAMPLING,
    ),
]
DryMultiplier = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Strength of DRY, which makes repeated sequences less probable; 0: none.",
        rich_help_panel=SAMPLING,
    ),
]
SamplingSeed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        min=0,
        metavar="N",
        help="Seed of every answer. Default: another one for each.",
        rich_help_panel=SAMPLING,
    ),
]


@dataclass(frozen=True)
class EngineOptions:
    """What the engine that runs a model may use."""

    context: SlotContext = None
    gpu_layers: GpuLayers = None
    workers: EngineThreads = None
    log: Log = None


@dataclass(frozen=True)
class ThinkingOptions:
    """How a model thinks."""

    thinking: ThinkingWord = "auto"
    reasoning_budget: ReasoningBudget = None
    reasoning_message: ReasoningMessage = None

    def settings(self) -> Thinking:
        """As a Thinking."""
        from secateur.api.serving import read_thinking

        return read_thinking(self.thinking, self.reasoning_budget, self.reasoning_message or "")


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn."""

    temperature: OwnTemperature = None
    top_k: TopK = None
    top_p: TopP = None
    min_p: MinP = None
    repeat_penalty: RepeatPenalty = None
    dry_multiplier: DryMultiplier = None
    seed: SamplingSeed = None

    def settings(self) -> Sampler:
        """As a Sampler."""
        from secateur.serving.settings import Sampler

        return Sampler(**vars(self))
