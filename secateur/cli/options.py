"""The arguments and options that several commands of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CRITERIA = (
    "What an expert is worth: rerouted (default), reap, frequency, ean_sum, ean_mean, "
    "weighted_ean_sum, weighted_frequency, max_activation, msan, contribution or random."
)

Model = Annotated[str, typer.Argument(help="Model folder, hub id (owner/name), or 'gemmule'.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Revision = Annotated[str | None, typer.Option(help="Commit, branch or tag of a hub id.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Cores to use. Default: all.")]
Stats = Annotated[Path | None, typer.Option("--stats", help="Statistics of `calibrate`.")]
Experts = Annotated[int | None, typer.Option(help="Experts per layer that stay.")]
Drop = Annotated[float | None, typer.Option(help="Share of experts that goes; 0.30 of 128 is 38.")]
Criterion = Annotated[str | None, typer.Option(help=CRITERIA)]
Aggregation = Annotated[str, typer.Option(help="pooled, mean-rank or worst-category.")]
Gate = Annotated[str, typer.Option(help="true, or reference (softmax only, as REAP's code).")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the criterion `random`.")]
Protect = Annotated[
    list[str] | None, typer.Option(help="LAYER:EXPERT[,EXPERT...] to keep; may be repeated.")
]
PerSample = Annotated[
    int, typer.Option(min=1, help="Experts that `contribution` protects per sample.")
]
Super = Annotated[bool, typer.Option("--protect-super-experts", help="Keep outstanding experts.")]
DropMap = Annotated[Path | None, typer.Option(help="JSON that says which experts stay or go.")]
Types = Annotated[
    str | None,
    typer.Option(help="GGUF file types, comma-separated: Q4_K_M,Q8_0; or suite:bartowski."),
]
To = Annotated[
    str | None,
    typer.Option(help="safetensors, gguf, mlx. Default: safetensors, and what the types are for."),
]
Recipes = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe", help="A recipe by name (`secateur recipe list`) or YAML path; may be repeated."
    ),
]
TensorTypes = Annotated[
    Path | None,
    typer.Option(
        "--tensor-type-file", help="llama-quantize's NAME=TYPE file, over the one --types."
    ),
]
LayerImportance = Annotated[
    str | None,
    typer.Option(
        help="What ranks layers for recipes with tiers: rerouted (default) or contribution, of "
        "the statistics, or a JSON file with a number per layer."
    ),
]
SplitMaxSize = Annotated[
    str | None,
    typer.Option(help="Cut GGUF files of more tensor bytes than this, as in 5G or 500M."),
]
Mmproj = Annotated[
    str | None,
    typer.Option(
        help="The vision tower's own GGUF: F16 (default, if there is a tower), BF16, F32, Q8_0, "
        "or none."
    ),
]
Pad = Annotated[
    bool,
    typer.Option("--pad", help="Widen rows with zeros where a GGUF type needs it, not fall back."),
]
Imatrix = Annotated[
    Path | None,
    typer.Option(help="llama.cpp's importance matrix (GGUF or .dat) instead of the statistics'."),
]
UnseenExperts = Annotated[
    str, typer.Option(help="Experts without importance data: uniform (llama.cpp), mean or stop.")
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(help="For a config alone: folder with tokenizer.json, or a GGUF vocabulary."),
]
Context = Annotated[
    int | None, typer.Option(help="Tokens of context to count memory for. Default: 32768.")
]
WithImatrix = Annotated[
    bool,
    typer.Option("--with-imatrix", help="A config alone: as if there were an importance matrix."),
]
Corpus = Annotated[str | None, typer.Option(help="A mix by name or YAML path, or JSONL/text.")]
Rows = Annotated[Path | None, typer.Option(help="JSONL with input_ids per line, used as given.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write.")]


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a word that the option does not know."""
    if value not in allowed:
        raise typer.BadParameter(f"{value!r}: expected {' or '.join(allowed)}", param_hint=option)


def protected_experts(entries: list[str]) -> dict[int, tuple[int, ...]]:
    """{layer: experts} of LAYER:EXPERT[,EXPERT...] entries."""
    protected: dict[int, tuple[int, ...]] = {}
    for entry in entries:
        layer, _, experts = entry.partition(":")
        try:
            named = tuple(int(expert) for expert in experts.split(","))
            protected[int(layer)] = (*protected.get(int(layer), ()), *named)
        except ValueError:
            raise typer.BadParameter(
                f"{entry!r}: expected LAYER:EXPERT[,EXPERT...], as in 0:3,17",
                param_hint="--protect",
            ) from None
    return protected


SequenceLength = Annotated[int | None, typer.Option(min=1, help="Tokens per row.")]
RerouteTokens = Annotated[
    int, typer.Option(min=0, help="Tokens sampled for `rerouted`; 0 leaves it out.")
]
OnNan = Annotated[str, typer.Option(help="stop, or skip tokens that become NaN.")]
