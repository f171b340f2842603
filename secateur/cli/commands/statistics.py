"""`secateur merge`, `coverage` and `scores`: what is done with statistics files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.help import FILES, LOOKING
from secateur.cli.options.arguments import Statistics
from secateur.cli.options.output import Force, Json, Out
from secateur.cli.options.pruning import (
    Aggregation,
    Criterion,
    PerSample,
    RandomSeed,
    RoutingWeight,
)
from secateur.cli.options.running import Revision, SolvingDevice, Workers
from secateur.cli.progress import show_progress
from secateur.cli.register import add_command
from secateur.cli.terminal import note, show
from secateur.errors import RequestError
from secateur.system.sizes import show_count

MERGE_EXAMPLES = """
secateur merge a.safetensors b.safetensors -o all.safetensors
secateur merge part1.safetensors part2.safetensors --model MODEL -o all.st
"""
SCORES_EXAMPLES = """
secateur scores stats.safetensors
secateur scores stats.safetensors --criterion reap --layer 3
"""


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add_command(app, merge, group=FILES, examples=MERGE_EXAMPLES)
    add_command(
        app, coverage, group=LOOKING, examples="secateur coverage stats.safetensors --least 100"
    )
    add_command(app, scores, group=LOOKING, examples=SCORES_EXAMPLES)


def merge(
    statistics: Annotated[
        list[Path], typer.Argument(metavar="STATISTICS...", help="Statistics files of one model.")
    ],
    out: Out,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Solve the default criterion `rerouted` again with this model's weights, from "
            "the token samples that `calibrate --keep-sample` (or --shard) wrote.",
        ),
    ] = None,
    revision: Revision = None,
    device: SolvingDevice = "auto",
    workers: Workers = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Merge statistics of several runs or machines: exact, in any order.

    Without --model the merged file lacks the default criterion `rerouted`. Files that share a
    document are refused: it would count twice.
    """
    from secateur.api.requests import Solving
    from secateur.api.statistics import merge as run

    solving = Solving(revision, workers, device)
    with show_progress() as progress:
        merged = run(
            statistics, out, model=model, solving=solving, force=force, on_message=note,
            progress=progress,
        )  # fmt: skip
    summary = {"statistics": str(out), "tokens": dict(merged.tokens), "merged": len(statistics)}
    total = sum(merged.tokens.values())
    show(summary, [f"{out}: {total:,} tokens of {show_count(len(statistics), 'file')}"], as_json)


def coverage(
    statistics: Statistics,
    least: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens wanted per expert.")] = 32,
    as_json: Json = False,
) -> None:
    """Experts that saw too few tokens, and how many more would do."""
    from secateur.api.statistics import coverage as run

    found = run(statistics, least)
    show(asdict(found), found.sentences(), as_json)


def scores(
    statistics: Statistics,
    criterion: Criterion = "rerouted",
    aggregation: Aggregation = "pooled",
    routing_weight: RoutingWeight = "true",
    random_seed: RandomSeed = 0,
    protect_per_sample: PerSample = 16,
    layer: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Show all experts of this layer.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Show all experts of all layers.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What every expert is worth by a criterion: the highest are kept."""
    from secateur.api.requests import Pruning
    from secateur.api.statistics import scores as run
    from secateur.cli.render.scores import layer_lines, overview_lines
    from secateur.pruning.criteria.aggregations import POOLED
    from secateur.pruning.criteria.registry import find_criterion

    if everything and layer is not None:
        raise RequestError(f"--all is of all layers: leave out --all or --layer {layer}")
    request = Pruning(
        criterion=criterion,
        aggregation=aggregation,
        routing_weight=routing_weight,
        random_seed=random_seed,
        protect_per_sample=protect_per_sample,
    )
    found = {str(number): values for number, values in run(statistics, request).items()}
    if layer is not None:
        found = _only(found, layer)
    asked = find_criterion(criterion)
    unit = asked.unit if aggregation == POOLED else f"{aggregation} over categories"
    head = f"{asked.name}: {asked.help}; unit: {unit}; the higher, the longer it is kept"
    data = {"criterion": asked.name, "unit": unit, "layers": found}
    lines = (layer_lines if everything or layer is not None else overview_lines)(head, found)
    show(data, lines, as_json)


def _only(layers: dict[str, list[float]], layer: int) -> dict[str, list[float]]:
    if str(layer) not in layers:
        raise RequestError(f"--layer {layer}: the layers with experts are {', '.join(layers)}")
    return {str(layer): layers[str(layer)]}
