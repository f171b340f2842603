"""`secateur plan` and `secateur fit`: decide, and write nothing but the plan."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.help import Command
from secateur.cli.options import (
    Aggregation,
    AssumeImatrix,
    Context,
    Criterion,
    Drop,
    DropMap,
    Experts,
    FamilyFile,
    Force,
    Gate,
    Imatrix,
    Json,
    LayerImportance,
    Mmproj,
    Model,
    Pad,
    PerSample,
    Protect,
    RandomSeed,
    Revision,
    SplitMaxSize,
    Stats,
    Super,
    TensorTypeFile,
    To,
    Tokenizer,
    Types,
    UnseenExperts,
)
from secateur.cli.terminal import show, write_lines

PLAN_EXAMPLES = """
secateur plan gemmule --stats stats.safetensors --experts 24 --types Q4_K_M -o plan.json
secateur plan MODEL --stats stats.safetensors --drop 0.30 --types apex-mini,Q8_0 -o plan.json
secateur plan config.json --experts 109 --types Q4_K_M --tokenizer tokenizer.json
"""
FIT_EXAMPLES = """
secateur fit config.json --memory 12GiB
secateur fit MODEL --memory 16GB --experts 128,109 --types Q4_K_M,IQ3_XXS --context 8192
"""


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(cls=Command, epilog=PLAN_EXAMPLES)(plan)
    app.command(cls=Command, epilog=FIT_EXAMPLES)(fit)


def plan(
    model: Model,
    stats: Stats = None,
    experts: Experts = None,
    drop: Drop = None,
    drop_map: DropMap = None,
    criterion: Criterion = None,
    aggregation: Aggregation = "pooled",
    gate: Gate = "true",
    random_seed: RandomSeed = 0,
    protect: Protect = None,
    protect_per_sample: PerSample = 16,
    protect_super_experts: Super = False,
    to: To = None,
    types: Types = None,
    tensor_type_file: TensorTypeFile = None,
    layer_importance: LayerImportance = None,
    pad: Pad = False,
    split_max_size: SplitMaxSize = None,
    mmproj: Mmproj = None,
    imatrix: Imatrix = None,
    unseen_experts: UnseenExperts = "uniform",
    tokenizer: Tokenizer = None,
    assume_imatrix: AssumeImatrix = False,
    context: Context = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="Print every tensor.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="PATH", help="Write the plan here.")
    ] = None,
    force: Force = False,
    revision: Revision = None,
    family: FamilyFile = None,
    as_json: Json = False,
) -> None:
    """Decide every output tensor, its type and exact bytes. Writes nothing but the plan.

    A config.json is enough to know all sizes; which experts are kept is then not decided.
    """
    from secateur.api.models import with_family
    from secateur.api.plan import plan as run
    from secateur.api.plan import save_plan
    from secateur.api.requests import Formats, PlanningAssumptions, Pruning, read_protected
    from secateur.cli.render.plan import plan_lines
    from secateur.planning.document import to_json

    weights = stats is not None or (out is not None and not Path(model).exists())
    decided = run(
        with_family(model, revision, family, weights=weights),
        Pruning(
            experts, drop, criterion or Pruning.criterion, aggregation, gate, protect_per_sample,
            random_seed, read_protected(protect or ()), protect_super_experts, drop_map,
        ),
        Formats(
            to, types or (), (), tensor_type_file, pad, layer_importance, split_max_size,
            mmproj,
        ),
        statistics=stats,
        imatrix=imatrix,
        unseen_experts=unseen_experts,
        # A plan that is written will be applied: it is made with the weights.
        assumptions=PlanningAssumptions(tokenizer, context, assume_imatrix, fetch=out is not None),
        revision=revision,
    )  # fmt: skip
    if out is not None:
        save_plan(decided, out, force=force)
    if as_json:
        sys.stdout.write(to_json(decided))
    else:
        write_lines(plan_lines(decided, out, tensors=tensors))


def fit(
    model: Model,
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory there is: 12GiB, 16GB, or bytes.")
    ],
    experts: Annotated[
        str | None,
        typer.Option(metavar="N[,N...]", help="Numbers of experts to try. Default: useful ones."),
    ] = None,
    types: Types = None,
    tokenizer: Tokenizer = None,
    context: Context = None,
    revision: Revision = None,
    family: FamilyFile = None,
    as_json: Json = False,
) -> None:
    """What fits in a given memory: experts kept and file types, the largest first."""
    from secateur.api.models import with_family
    from secateur.api.plan import fit as run
    from secateur.api.requests import read_counts
    from secateur.cli.render.plan import fit_lines

    found = run(
        with_family(model, revision, family),
        memory,
        experts=read_counts(experts or ""),
        types=types or (),
        tokenizer=tokenizer,
        context=context,
        revision=revision,
    )
    show(found.to_json(), fit_lines(found), as_json)
