"""Options: what the served models are asked, and how they are served for it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from secateur.cli.choices import complete, complete_list, protocols, task_suites

if TYPE_CHECKING:
    from secateur.api.requests import Measuring

ASKING = "Asking"

TaskNames = Annotated[
    list[str] | None,
    typer.Option(
        "--tasks",
        metavar="NAME,...",
        autocompletion=complete_list(task_suites),
        help="Also ask questions of tasks, the original beside the artefacts: built-in suites, "
        "files for lm-eval (./mine.yaml), or its own tasks by name (gsm8k; data of the hub).",
        rich_help_panel=ASKING,
    ),
]
ProtocolName = Annotated[
    str,
    typer.Option(
        "--protocol",
        metavar="NAME|FILE",
        autocompletion=complete(protocols),
        help="How questions are put: sampler, thinking, limits, second pass.",
        rich_help_panel=ASKING,
    ),
]
TaskLimit = Annotated[
    int | None,
    typer.Option(
        "--task-limit",
        min=1,
        metavar="N",
        help="Ask so many questions of each task. Default: what the protocol says, else all; of a "
        "built-in suite 100.",
        rich_help_panel=ASKING,
    ),
]
TaskSeed = Annotated[
    int,
    typer.Option(
        "--task-seed",
        min=0,
        metavar="N",
        help="Decides which questions a built-in suite makes.",
        rich_help_panel=ASKING,
    ),
]
Original = Annotated[
    str | None,
    typer.Option(
        "--original",
        metavar="URL|FILE.gguf|none",
        help="What is asked beside the artefacts: a server of the original (OpenAI's protocol; "
        "key: OPENAI_API_KEY), a GGUF of it, or nothing. Default: a GGUF of it is made and kept.",
        rich_help_panel=ASKING,
    ),
]
OriginalModel = Annotated[
    str | None,
    typer.Option(
        "--original-model",
        metavar="NAME",
        help="What the server calls the original, where it has several models.",
        rich_help_panel=ASKING,
    ),
]
ServedModel = Annotated[
    str | None,
    typer.Option(
        "--served-model",
        metavar="NAME",
        help="What a server that is measured calls its model, where it has several.",
        rich_help_panel=ASKING,
    ),
]
CompareAnyway = Annotated[
    bool,
    typer.Option(
        "--compare-anyway",
        help="Compare with the original also where both were asked under different conditions.",
        rich_help_panel=ASKING,
    ),
]
Slots = Annotated[
    int,
    typer.Option(min=1, metavar="N", help="Questions answered at a time.", rich_help_panel=ASKING),
]
Context = Annotated[
    int | None,
    typer.Option(
        min=256,
        metavar="TOKENS",
        help="Of a question and its answer. Default: what the protocol says, else what the model "
        "was made for, 32,768 at most.",
        rich_help_panel=ASKING,
    ),
]
GpuLayers = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Layers that run on a GPU. Default: as many as fit.",
        rich_help_panel=ASKING,
    ),
]
RetryErrors = Annotated[
    bool,
    typer.Option(
        "--retry-errors",
        help="Ask questions again that the server answered with an error, twice the same. Errors "
        "that may pass are asked again anyway.",
        rich_help_panel=ASKING,
    ),
]


@dataclass(frozen=True)
class TaskOptions:
    """Which tasks are asked."""

    tasks: TaskNames = None
    protocol: ProtocolName = "default"
    task_limit: TaskLimit = None
    task_seed: TaskSeed = 0

    def words(self) -> dict[str, Any]:
        """As arguments of a Measuring."""
        from secateur.api.requests import Tasks, read_words

        if self.tasks is None:
            refuse_without(self, "tasks")
            return {"tasks": None}
        asked = (self.protocol, self.task_limit, self.task_seed)
        return {"tasks": Tasks(read_words(self.tasks), *asked)}


@dataclass(frozen=True)
class ServingOptions:
    """How models are served to be asked."""

    original: Original = None
    original_model: OriginalModel = None
    served_model: ServedModel = None
    slots: Slots = 4
    context: Context = None
    gpu_layers: GpuLayers = None
    retry_errors: RetryErrors = False
    compare_anyway: CompareAnyway = False

    def words(self) -> dict[str, Any]:
        """As arguments of a Measuring."""
        from secateur.api.requests import Serving

        given = {("model" if key == "served_model" else key): found
                 for key, found in vars(self).items()}  # fmt: skip
        return {"serving": Serving(**given)}

    def refuse_unused(self, request: Measuring) -> None:
        """Raise RequestError for an option of these where no model is asked anything."""
        if not request.kinds:
            refuse_without(self, "tasks, --loops or --speed")


class Words(Protocol):
    """A group of options that are arguments of a Measuring."""

    def words(self) -> dict[str, Any]: ...


def refuse_without(options: Any, switch: str) -> None:
    """Raise RequestError for an option of a group that was given without the one, `switch`, that
    turns the group on: it would decide nothing."""
    from secateur.errors import RequestError

    for name in given(options):
        if name != f"--{switch}":
            raise RequestError(
                f"{name} decides nothing without --{switch}: add that, or leave {name} out"
            )


def given(options: Any) -> list[str]:
    """The options of a group that are not what they are by default, as they are written."""
    return [
        f"--{one.name.replace('_', '-')}"
        for one in fields(options)
        if getattr(options, one.name) != one.default
    ]


def all_words(*groups: Words) -> dict[str, Any]:
    """The arguments of several groups of options."""
    return {name: value for group in groups for name, value in group.words().items()}
