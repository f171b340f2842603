"""The commands that decide and write nothing: `plan` and `fit`. Parse, call a verb, print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.options import (
    Aggregation,
    Context,
    Criterion,
    Drop,
    DropMap,
    Experts,
    Gate,
    Imatrix,
    Json,
    LayerImportance,
    Mmproj,
    Model,
    Pad,
    PerSample,
    Protect,
    Recipes,
    Revision,
    Seed,
    SplitMaxSize,
    Stats,
    Super,
    TensorTypes,
    To,
    Tokenizer,
    Types,
    UnseenExperts,
    WithImatrix,
)
from secateur.cli.parsing import formats_of, policy_of, pruning_of
from secateur.cli.terminal import show, write_lines


def plan(
    model: Model,
    stats: Stats = None,
    experts: Experts = None,
    drop: Drop = None,
    criterion: Criterion = None,
    aggregation: Aggregation = "pooled",
    gate: Gate = "true",
    seed: Seed = 0,
    protect: Protect = None,
    protect_per_sample: PerSample = 16,
    protect_super_experts: Super = False,
    drop_map: DropMap = None,
    to: To = None,
    types: Types = None,
    recipe: Recipes = None,
    tensor_type_file: TensorTypes = None,
    layer_importance: LayerImportance = None,
    pad: Pad = False,
    split_max_size: SplitMaxSize = None,
    mmproj: Mmproj = None,
    imatrix: Imatrix = None,
    unseen_experts: UnseenExperts = "uniform",
    tokenizer: Tokenizer = None,
    context: Context = None,
    with_imatrix: WithImatrix = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="Print every tensor.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the plan here.")] = None,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Decide every output tensor, its type and exact bytes, before anything is written.

    A config.json is enough to know all sizes; which experts stay is then not decided.
    """
    from secateur.api import verbs
    from secateur.cli.render.results import plan_lines
    from secateur.planning.document import to_json

    request = pruning_of(
        experts=experts, drop=drop, criterion=criterion, aggregation=aggregation, gate=gate,
        seed=seed, protect=protect, protect_per_sample=protect_per_sample,
        protect_super_experts=protect_super_experts, drop_map=drop_map,
    )  # fmt: skip
    decided = verbs.plan(
        model,
        request,
        formats_of(
            to, types, recipe, tensor_type_file, layer_importance, pad, split_max_size, mmproj
        ),
        statistics=stats, imatrix=imatrix, unseen_experts=policy_of(unseen_experts),
        revision=revision,
        # A plan that is kept shall be applied: it is made with the weights.
        assumptions=verbs.PlanningAssumptions(
            tokenizer, context, with_imatrix, fetch=out is not None
        ),
    )  # fmt: skip
    if out is not None:
        verbs.save_plan(decided, out)
    if as_json:
        sys.stdout.write(to_json(decided))
    else:
        write_lines(plan_lines(decided, out, tensors=tensors))


def fit(
    model: Model,
    memory: Annotated[str, typer.Option(help="What there is: 12GiB, 16GB, or bytes.")],
    context: Context = None,
    experts: Annotated[
        str | None, typer.Option(help="Counts to try, comma-separated. Default: useful ones.")
    ] = None,
    types: Annotated[
        str | None, typer.Option(help="File types or recipes to try. Default: llama.cpp's.")
    ] = None,
    tokenizer: Tokenizer = None,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """What fits in a given memory: experts kept and file types, the largest first."""
    from secateur.api import verbs
    from secateur.cli.parsing import counts_of, memory_of
    from secateur.cli.render.results import fit_lines

    found = verbs.fit(
        model, memory_of(memory), context=context, experts=counts_of(experts),
        types=tuple(w.strip() for w in (types or "").split(",") if w.strip()),
        tokenizer=tokenizer, revision=revision,
    )  # fmt: skip
    show(found.to_json(), fit_lines(found), as_json)
