"""`secateur plan` and `secateur fit`: decide, and write nothing but the plan."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.help import LOOKING, STEPS
from secateur.cli.options.arguments import Model
from secateur.cli.options.calibration import Stats
from secateur.cli.options.formats import FormatOptions, Types
from secateur.cli.options.output import Force, Json
from secateur.cli.options.planning import Context, Tokenizer, WithImatrix
from secateur.cli.options.pruning import Counts, PruningOptions
from secateur.cli.options.running import RunOptions
from secateur.cli.register import add_command
from secateur.cli.terminal import show, tells, write_lines
from secateur.errors import RequestError

PLAN_EXAMPLES = """
secateur plan gemmule --stats stats.safetensors --experts 24 --types Q4_K_M \\
    -o plan.json
secateur plan MODEL --stats stats.safetensors --drop 0.30 --types apex-mini
secateur plan config.json --experts 109 --types Q4_K_M,Q8_0
"""
DIFF_EXAMPLES = """
secateur plan diff plan.json out/plan.json
secateur plan diff before.json after.json --json
"""
FIT_EXAMPLES = """
secateur fit config.json --memory 12GiB
secateur fit MODEL --memory 16GB --experts 128,109 --types Q4_K_M,IQ3_XXS
"""


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add_command(app, plan, group=STEPS, examples=PLAN_EXAMPLES)
    add_command(app, diff, name="plan diff", group=LOOKING, examples=DIFF_EXAMPLES)
    add_command(app, fit, group=LOOKING, examples=FIT_EXAMPLES)


def plan(
    model: Model,
    pruning: PruningOptions,
    formats: FormatOptions,
    running: RunOptions,
    stats: Stats = None,
    tokenizer: Tokenizer = None,
    with_imatrix: WithImatrix = False,
    context: Context = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="Print every tensor.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="PATH", help="Write the plan here.")
    ] = None,
    force: Force = False,
) -> None:
    """Decide every output tensor, its type and exact bytes. Writes nothing but the plan.

    A config.json is enough to know all sizes; which experts are kept is then not decided.
    """
    from secateur.api.plan import plan as run
    from secateur.api.plan import save_plan
    from secateur.api.requests import PlanningAssumptions
    from secateur.cli.render.plan import plan_lines
    from secateur.planning.document import to_json

    if force and out is None:
        raise RequestError("force overwrites a plan that is there: name it with --out")
    weights = stats is not None or (out is not None and not Path(model).exists())
    decided = run(
        running.open(model, weights=weights),
        pruning.request(),
        formats.request(),
        statistics=stats,
        imatrix=formats.imatrix,
        unseen_experts=formats.unseen_experts,
        # A plan that is written will be applied: it is made with the weights.
        assumptions=PlanningAssumptions(tokenizer, context, with_imatrix, fetch=out is not None),
        revision=running.revision,
    )
    if out is not None:
        save_plan(decided, out, force=force)
    if running.as_json:
        sys.stdout.write(to_json(decided))
    else:
        write_lines(plan_lines(decided, out, types=tells("INFO"), tensors=tensors))


def diff(
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="A plan, as `plan -o` wrote it.")],
    second: Annotated[
        Path, typer.Argument(metavar="SECOND", help="Another, or the plan.json of an output.")
    ],
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 3 where the plans differ.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What differs between two plans.

    Experts kept, types by tensor, sizes, and what the plans were made from. Exit code 0, whether
    they differ or not: 1 means that something failed.
    """
    from secateur.api.plan import diff_plans
    from secateur.cli.render.plan_diff import diff_lines
    from secateur.errors import GateError

    found = diff_plans(first, second)
    lines = diff_lines(found, (str(first), str(second)), everything=tells("INFO"))
    show(found.to_json(), lines, as_json)
    if strict and not found.same:
        raise GateError(f"{first} and {second} differ")


def fit(
    model: Model,
    running: RunOptions,
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory there is: 12GiB, 16GB, or bytes.")
    ],
    experts: Counts = None,
    types: Types = None,
    tokenizer: Tokenizer = None,
    context: Context = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Show all that fit, not only the best fifteen.")
    ] = False,
) -> None:
    """Which numbers of experts and file types fit in a given memory."""
    from secateur.api.plan import fit as run
    from secateur.api.requests import read_counts
    from secateur.cli.render.fit import fit_lines

    found = run(
        running.open(model),
        memory,
        experts=read_counts(experts or ""),
        types=types or (),
        tokenizer=tokenizer,
        context=context,
        revision=running.revision,
    )
    show(found.to_json(), fit_lines(found, everything=everything), running.as_json)
