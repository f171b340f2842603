"""`secateur recipe ...`: parse, call a verb, print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.choices import complete, file_types, recipes
from secateur.cli.options.arguments import Model
from secateur.cli.options.calibration import Stats
from secateur.cli.options.formats import LayerImportance
from secateur.cli.options.output import Force, Json, OutOrStdout
from secateur.cli.options.planning import WithImatrix
from secateur.cli.options.running import RunOptions
from secateur.cli.register import add_command, new_app
from secateur.cli.terminal import show
from secateur.errors import GateError, RequestError
from secateur.system.sizes import show_count

EXPORT_EXAMPLES = """
secateur recipe export plan.json -o types.txt
secateur recipe export apex-mini gemmule
"""

Word = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe by name or YAML path, or a tensor-type file.",
        autocompletion=complete(recipes),
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        help="File type of what no rule names; a tensor-type file needs one.",
        autocompletion=complete(file_types),
    ),
]


def list_(as_json: Json = False) -> None:
    """The recipes and suites that come with secateur."""
    from secateur.api import recipes as recipe_verbs
    from secateur.cli.render.recipes import list_lines

    recipes, suites = recipe_verbs.recipes(), recipe_verbs.suites()
    show({"recipes": recipes, "suites": suites}, list_lines(recipes, suites), as_json)


def show_(recipe: Word, base: Base = None, as_json: Json = False) -> None:
    """A recipe, rule by rule."""
    from secateur.api import recipes as recipe_verbs
    from secateur.cli.render.recipes import recipe_lines

    found = recipe_verbs.recipe(recipe, base)
    show(recipe_verbs.recipe_facts(found), recipe_lines(found), as_json)


def lint(
    recipe: Word,
    model: Model,
    running: RunOptions,
    base: Base = None,
    experts: Annotated[
        int | None, typer.Option(metavar="N", help="Experts kept in each layer.")
    ] = None,
    with_imatrix: WithImatrix = False,
    stats: Stats = None,
    layer_importance: LayerImportance = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 on problems.")] = False,
) -> None:
    """What is odd about a recipe for a model, to the byte. A config is enough."""
    from secateur.api import recipes as recipe_verbs
    from secateur.cli.render.recipes import lint_lines

    found = recipe_verbs.lint_recipe(
        recipe, running.open(model), base=base, experts=experts, imatrix=with_imatrix,
        layers=recipe_verbs.Layers(layer_importance, stats), revision=running.revision,
    )  # fmt: skip
    show(found.to_json(), lint_lines(found), running.as_json)
    if strict and found.problems:
        raise GateError(
            f"{recipe}: {show_count(len(found.problems), 'problem')}, the first is: "
            f"{found.problems[0].rule} {found.problems[0].text}"
        )


def export(
    what: Annotated[
        str,
        typer.Argument(
            metavar="PLAN|RECIPE",
            help="A plan (plan.json), or a recipe, which needs a model.",
            autocompletion=complete(recipes),
        ),
    ],
    running: RunOptions,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Model folder, hub id or 'gemmule'.")
    ] = None,
    out: OutOrStdout = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="FORMAT", help="Which of a plan's formats, as gguf-Q4_K_M."
        ),
    ] = None,
    base: Base = None,
    with_imatrix: WithImatrix = False,
    stats: Stats = None,
    layer_importance: LayerImportance = None,
    force: Force = False,
) -> None:
    """Types as a file for llama-quantize's --tensor-type-file."""
    from secateur.api import recipes as recipe_verbs
    from secateur.cli.render.recipes import export_lines

    if force and out is None:
        raise RequestError("force overwrites a file that is there: name it with --out")
    if Path(what).suffix == ".json":
        if model is not None:
            raise typer.BadParameter("a plan names its model already: leave it out")
        _refuse(
            "a plan has its types already", base=base, with_imatrix=with_imatrix, stats=stats,
            layer_importance=layer_importance, revision=running.revision, family=running.family,
        )  # fmt: skip
        types = recipe_verbs.export_plan(what, form)
    elif model is None:
        raise typer.BadParameter(f"which model shall {what!r} be applied to?", param_hint="MODEL")
    else:
        _refuse("a recipe is of one format", format=form)
        types = recipe_verbs.export_recipe(
            what, running.open(model), base=base, imatrix=with_imatrix,
            layers=recipe_verbs.Layers(layer_importance, stats), revision=running.revision,
        )  # fmt: skip
    if out is not None:
        recipe_verbs.save_tensor_types(types, out, force=force)
    if out is not None or running.as_json:
        facts = {"base": types.base, "types": dict(types.types)}
        show(facts, export_lines(types, out), running.as_json)
    else:
        sys.stdout.write(types.text)


def _refuse(because: str, **options: object) -> None:
    """Raise RequestError for an option that was given and decides nothing."""
    if odd := [name for name, value in options.items() if value not in (None, False)]:
        raise RequestError(f"{because}: leave out --{odd[0].replace('_', '-')}")


app = new_app("Recipes: which type every tensor gets.", epilog="secateur recipe list")
add_command(app, list_, name="list", examples="secateur recipe list --json")
add_command(app, show_, name="show", examples="secateur recipe show apex-mini")
add_command(app, lint, examples="secateur recipe lint my.yaml config.json --experts 109")
add_command(app, export, examples=EXPORT_EXAMPLES)
