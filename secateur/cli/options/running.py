"""Options: how a model is found, and how commands run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from secateur.cli.choices import complete, devices
from secateur.cli.options.output import Json

if TYPE_CHECKING:
    from secateur.api.models import Model
    from secateur.api.requests import Running

RUNNING = "Running"


def _device(help_text: str) -> Any:
    """An option that names a device."""
    return typer.Option(
        metavar="auto|cpu|cuda[:N]|cuda:0,cuda:1|mps",
        autocompletion=complete(devices),
        help=help_text,
        rich_help_panel=RUNNING,
    )


Revision = Annotated[
    str | None,
    typer.Option(
        metavar="REVISION", help="Commit, branch or tag of a hub id.", rich_help_panel=RUNNING
    ),
]
FamilyFile = Annotated[
    Path | None,
    typer.Option(
        "--family",
        metavar="FILE",
        help="Your own TOML of the model's family (`secateur family draft`).",
        rich_help_panel=RUNNING,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Threads to use. Default: all cores.", rich_help_panel=RUNNING
    ),
]
EngineWord = Annotated[
    Literal["here", "ray"] | None,
    typer.Option(
        "--engine",
        help="Who does the work: this process (here), or the machines of a Ray cluster, each of "
        "them parts that are put together to the same bytes.",
        rich_help_panel=RUNNING,
    ),
]
Parts = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Work in so many parts, each kept once it is made (ray: 64, or as many as there is "
        "work for).",
        rich_help_panel=RUNNING,
    ),
]
Device = Annotated[
    str,
    _device(
        "Where the model runs: `auto` is the first CUDA GPU, or the CPU where there is none; "
        "of several GPUs each holds its share of the layers."
    ),
]
ChoosingDevice = Annotated[
    str,
    _device(
        "Where codes are chosen with error feedback: on the cores, or quicker on a CUDA GPU, with "
        "last bits of its own; `auto` is the first GPU, or the cores where there is none."
    ),
]
SolvingDevice = Annotated[
    str,
    _device(
        "Where `rerouted` is solved: `auto` is a GPU where GPUs made the sums and one is here, "
        "else the CPU."
    ),
]


EstimateOnly = Annotated[
    bool,
    typer.Option(
        "--estimate",
        help="Say how long it would take here, how much memory and disk, and do nothing.",
        rich_help_panel=RUNNING,
    ),
]


@dataclass(frozen=True)
class WorkOptions:
    """By whom work is done, and in how many parts."""

    engine: EngineWord = None
    parts: Parts = None
    workers: Workers = None

    def running(self, given: Running | None = None) -> Running:
        """How work is run: what was `given`, with what is said here in its place."""
        from dataclasses import replace

        from secateur.api.requests import Running

        said = {name: value for name, value in vars(self).items() if value is not None}
        return replace(given or Running(), **said)


@dataclass(frozen=True)
class RunOptions:
    """How a model is found, and how results are shown."""

    revision: Revision = None
    family: FamilyFile = None
    as_json: Json = False

    def open(self, model: str, *, weights: bool = False) -> Model:
        """The model, of the user's family where one is named; with weights where they are needed.

        Raises CheckpointError as `open_checkpoint` does.
        """
        from secateur.api.models import with_family

        return with_family(model, self.revision, self.family, weights=weights)
