"""Options: formats and types."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from secateur.cli.choices import complete, complete_list, formats, tower_types, types

if TYPE_CHECKING:
    from secateur.api.requests import Formats

FORMATS = "Formats and types"

To = Annotated[
    str | None,
    typer.Option(
        metavar="FORMAT[,FORMAT...]",
        help="Formats to write. Default: safetensors, and what the types are for.",
        autocompletion=complete_list(formats),
        rich_help_panel=FORMATS,
    ),
]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--types",
        "--recipe",
        metavar="TYPE[,TYPE...]",
        autocompletion=complete_list(types),
        help="File types (Q4_K_M), recipes (`secateur recipe list`), suites (suite:bartowski) or "
        "YAML files; comma-separated or repeated.",
        rich_help_panel=FORMATS,
    ),
]
TensorTypeFile = Annotated[
    Path | None,
    typer.Option(
        "--tensor-type-file",
        metavar="FILE",
        help="llama-quantize's NAME=TYPE file, over the one file type in --types.",
        rich_help_panel=FORMATS,
    ),
]
LayerImportance = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="What ranks layers for recipes with tiers: a measure of the statistics "
        "(rerouted, the default, or contribution), or a JSON file with a number per layer.",
        rich_help_panel=FORMATS,
    ),
]
Pad = Annotated[
    bool,
    typer.Option(
        "--pad",
        help="Widen rows with zeros where a GGUF type needs it, instead of another type.",
        rich_help_panel=FORMATS,
    ),
]
SplitMaxSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Cut GGUF files of more tensor bytes than this: 5G, 500MB, 4GiB.",
        rich_help_panel=FORMATS,
    ),
]
Mmproj = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE|none",
        autocompletion=complete(tower_types),
        help="Type of the vision tower's own GGUF: F16 (the default if there is a tower), BF16, "
        "F32, Q8_0, or none to leave it out.",
        rich_help_panel=FORMATS,
    ),
]
Imatrix = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="llama.cpp's importance matrix (GGUF or .dat) instead of the statistics'.",
        rich_help_panel=FORMATS,
    ),
]
UnseenExperts = Annotated[
    Literal["uniform", "mean", "stop"],
    typer.Option(
        help="Experts without importance data: all columns alike (as llama.cpp), the mean of "
        "their layer, or stop.",
        rich_help_panel=FORMATS,
    ),
]


RoundingMethod = Annotated[
    Literal["nearest", "feedback"] | None,
    typer.Option(
        "--rounding",
        help="How levels are chosen: the nearest, as llama-quantize does, or such that they make "
        "up for each other's errors, at the same size. Default: feedback with statistics made "
        "with --gram, else nearest.",
        rich_help_panel=FORMATS,
    ),
]


@dataclass(frozen=True)
class FormatOptions:
    """Formats and types."""

    to: To = None
    types: Types = None
    tensor_type_file: TensorTypeFile = None
    layer_importance: LayerImportance = None
    pad: Pad = False
    split_max_size: SplitMaxSize = None
    mmproj: Mmproj = None
    rounding: RoundingMethod = None
    imatrix: Imatrix = None
    unseen_experts: UnseenExperts = "uniform"

    def request(self) -> Formats:
        """All but the importance matrix, which is none of a format's."""
        from secateur.api.requests import Formats

        return Formats(
            to=self.to,
            types=self.types or (),
            tensor_type_file=self.tensor_type_file,
            pad=self.pad,
            layer_importance=self.layer_importance,
            split_max_size=self.split_max_size,
            mmproj=self.mmproj,
            rounding=self.rounding,
        )
