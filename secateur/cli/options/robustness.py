"""Options: looking for loops, and measuring speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from secateur.cli.choices import complete_or_path, loop_plans
from secateur.cli.options.asking import refuse_without

LOOPS, SPEED = "Loops", "Speed"

FindLoops = Annotated[
    bool,
    typer.Option(
        "--loops",
        help="Also look for loops, missing answers, echoes and drift in replies to hundreds of "
        "prompts, the original beside the artefacts.",
        rich_help_panel=LOOPS,
    ),
]
LoopPrompts = Annotated[
    str | None,
    typer.Option(
        "--loop-prompts",
        metavar="PLAN|FILE",
        autocompletion=complete_or_path(loop_plans),
        help="A plan of prompts, a YAML file of one, or conversations (JSON lines). Default: the "
        "model's own test set, else the plan `general`.",
        rich_help_panel=LOOPS,
    ),
]
LoopCount = Annotated[
    int,
    typer.Option(
        "--loop-count", min=1, metavar="N", help="Prompts of all domains.", rich_help_panel=LOOPS
    ),
]
LoopSeeds = Annotated[
    int,
    typer.Option(
        "--loop-seeds", min=1, metavar="N", help="Replies to each prompt.", rich_help_panel=LOOPS
    ),
]
LoopTokens = Annotated[
    int | None,
    typer.Option(
        "--loop-tokens",
        min=1,
        metavar="N",
        help="Tokens of a reply at most, its thought included. Default: 2,048, or half of the "
        "model's context where that is less.",
        rich_help_panel=LOOPS,
    ),
]
LoopTemperature = Annotated[
    float | None,
    typer.Option(
        "--loop-temperature",
        min=0,
        metavar="T",
        help="Default: the model's own, and 1 where that is 0.",
        rich_help_panel=LOOPS,
    ),
]
LoopSeed = Annotated[
    int,
    typer.Option(
        "--loop-seed",
        min=0,
        metavar="N",
        help="Decides which prompts a plan makes.",
        rich_help_panel=LOOPS,
    ),
]
MeasureSpeed = Annotated[
    bool,
    typer.Option(
        "--speed",
        help="Also measure speed and memory in the real engines, the original and the artefacts "
        "in turns.",
        rich_help_panel=SPEED,
    ),
]
SpeedTurns = Annotated[
    int,
    typer.Option(
        "--speed-turns", min=1, metavar="N", help="Turns of each model.", rich_help_panel=SPEED
    ),
]
SpeedPrompt = Annotated[
    int,
    typer.Option(
        "--speed-prompt", min=2, metavar="TOKENS", help="Length of a prompt.", rich_help_panel=SPEED
    ),
]
SpeedAnswer = Annotated[
    int,
    typer.Option(
        "--speed-answer", min=2, metavar="TOKENS", help="Length of an answer.",
        rich_help_panel=SPEED,
    ),
]  # fmt: skip


@dataclass(frozen=True)
class LoopOptions:
    """Whether loops are looked for, and on what."""

    loops: FindLoops = False
    loop_prompts: LoopPrompts = None
    loop_count: LoopCount = 300
    loop_seeds: LoopSeeds = 3
    loop_tokens: LoopTokens = None
    loop_temperature: LoopTemperature = None
    loop_seed: LoopSeed = 0

    def words(self) -> dict[str, Any]:
        """As arguments of a Measuring."""
        from secateur.api.requests import Loops

        words = {name.removeprefix("loop_"): value for name, value in vars(self).items()}
        if not words.pop("loops"):
            refuse_without(self, "loops")
            return {"loops": None}
        return {"loops": Loops(**words)}


@dataclass(frozen=True)
class SpeedOptions:
    """Whether speed is measured, and how."""

    speed: MeasureSpeed = False
    speed_turns: SpeedTurns = 5
    speed_prompt: SpeedPrompt = 512
    speed_answer: SpeedAnswer = 128

    def words(self) -> dict[str, Any]:
        """As arguments of a Measuring."""
        from secateur.api.requests import Speed

        if not self.speed:
            refuse_without(self, "speed")
            return {"speed": None}
        return {"speed": Speed(self.speed_prompt, self.speed_answer, self.speed_turns)}
