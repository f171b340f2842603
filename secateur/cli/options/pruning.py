"""Options: which experts are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from secateur.cli.choices import aggregations, complete, criteria

if TYPE_CHECKING:
    from secateur.api.requests import Pruning

PRUNING = "Which experts are kept"

Experts = Annotated[
    int | None,
    typer.Option(metavar="N", help="Experts to keep in each layer.", rich_help_panel=PRUNING),
]
Counts = Annotated[
    str | None,
    typer.Option(
        "--experts",
        metavar="N[,N...]",
        help="Numbers of experts to keep in each layer. Default: some that make sense.",
        rich_help_panel=PRUNING,
    ),
]
Drop = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Share of the experts to drop, instead of --experts: 0.30 of 128 is 38.",
        rich_help_panel=PRUNING,
    ),
]
DropMap = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="JSON that names the experts to keep or drop, instead of a number.",
        rich_help_panel=PRUNING,
    ),
]
Criterion = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What an expert is worth.",
        autocompletion=complete(criteria),
        rich_help_panel=PRUNING,
    ),
]
Aggregation = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        autocompletion=complete(aggregations),
        help="How scores of several categories of text become one.",
        rich_help_panel=PRUNING,
    ),
]
RoutingWeight = Annotated[
    Literal["true", "reference"],
    typer.Option(
        help="Routing weight as it is applied, or softmax only, as in REAP's code.",
        rich_help_panel=PRUNING,
    ),
]
RandomSeed = Annotated[
    int,
    typer.Option(
        "--random-seed",
        min=0,
        metavar="N",
        help="Seed of the criterion `random`.",
        rich_help_panel=PRUNING,
    ),
]
Protect = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LAYER:EXPERT[,...]",
        help="Experts to keep in any case; may be repeated.",
        rich_help_panel=PRUNING,
    ),
]
PerSample = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="Experts that the criterion `contribution` protects per sample.",
        rich_help_panel=PRUNING,
    ),
]
Super = Annotated[
    bool,
    typer.Option(
        "--protect-super-experts",
        help="Keep experts with outstanding activations.",
        rich_help_panel=PRUNING,
    ),
]


@dataclass(frozen=True)
class PruningOptions:
    """Which experts are kept."""

    experts: Experts = None
    drop: Drop = None
    drop_map: DropMap = None
    criterion: Criterion = "rerouted"
    aggregation: Aggregation = "pooled"
    routing_weight: RoutingWeight = "true"
    random_seed: RandomSeed = 0
    protect: Protect = None
    protect_per_sample: PerSample = 16
    protect_super_experts: Super = False

    def request(self) -> Pruning:
        """Raises RequestError for experts to protect that cannot be read."""
        from secateur.api.requests import Pruning, read_protected

        return Pruning(
            experts=self.experts,
            drop=self.drop,
            criterion=self.criterion,
            aggregation=self.aggregation,
            routing_weight=self.routing_weight,
            protect_per_sample=self.protect_per_sample,
            random_seed=self.random_seed,
            protect=read_protected(self.protect or ()),
            protect_super_experts=self.protect_super_experts,
            drop_map=self.drop_map,
        )
