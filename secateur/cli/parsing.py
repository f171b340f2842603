"""What the options of a command mean together: a request for a verb, or an error of usage."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from secateur.cli.options import one_of, protected_experts

if TYPE_CHECKING:
    from secateur.api.verbs import Formats
    from secateur.planning.unseen_experts import Policy
    from secateur.pruning.choose import Pruning
    from secateur.recipes.recipe import Recipe


def pruning_of(
    protect: list[str] | None = None, criterion: str | None = None, **words: Any
) -> Pruning:
    """Which experts shall stay."""
    from secateur.pruning.choose import CRITERION, Pruning

    one_of("--gate", words.get("gate", "true"), ("true", "reference"))
    return Pruning(
        criterion=criterion or CRITERION, protected=protected_experts(protect or []), **words
    )


def policy_of(unseen_experts: str) -> Policy:
    """What becomes of experts without importance data."""
    from secateur.planning.unseen_experts import POLICIES

    for policy in POLICIES:
        if unseen_experts == policy:
            return policy
    raise typer.BadParameter(
        f"{unseen_experts!r}: expected {' or '.join(POLICIES)}", param_hint="--unseen-experts"
    )


def recipes_of(
    types: str | None, recipes: list[str] | None, tensor_types: Path | None
) -> tuple[Recipe, ...]:
    """The recipes of --types, --recipe and --tensor-type-file, in this order."""
    from secateur.recipes.recipe import recipe_of_types
    from secateur.recipes.suites import find_recipes

    names = [name.strip() for name in (types or "").split(",") if name.strip()]
    if tensor_types is None:
        return tuple(found for word in (*names, *(recipes or ())) for found in find_recipes(word))
    if len(names) != 1:
        raise typer.BadParameter(
            f"it goes with exactly one file type, as in --types Q4_K_M; found {len(names)}",
            param_hint="--tensor-type-file",
        )
    named = [found for word in recipes or () for found in find_recipes(word)]
    return (*named, recipe_of_types(tensor_types, names[0]))


def formats_of(
    to: str | None,
    types: str | None,
    recipes: list[str] | None,
    tensor_types: Path | None = None,
    layer_importance: str | None = None,
    pad: bool = False,
    split_max_size: str | None = None,
    mmproj: str | None = None,
) -> Formats:
    """What shall be written. Without --to: the pruned checkpoint, and what the types are for."""
    from secateur.api.verbs import Formats
    from secateur.formats.gguf.split import size_of

    found = recipes_of(types, recipes, tensor_types)
    if pad:
        found = tuple(map(_padded, found))
    split = None if split_max_size is None else size_of(split_max_size)
    rest: dict[str, Any] = {
        "layer_importance": layer_importance,
        "split_max_size": split,
        "mmproj": mmproj,
    }
    if to is None:
        return Formats(recipes=found, **rest)
    wanted = {word.strip() for word in to.split(",")}
    made: set[str] = {recipe.to for recipe in found}
    if odd := sorted(wanted - {"safetensors", "gguf", "mlx"}):
        raise typer.BadParameter(
            f"unknown format {odd[0]!r}: safetensors, gguf, mlx", param_hint="--to"
        )
    if lacking := sorted(wanted - made - {"safetensors"}):
        hint = {"gguf": "--types Q4_K_M", "mlx": "--recipe mlx-mixed-4-8"}[lacking[0]]
        raise typer.BadParameter(
            f"{lacking[0]} needs a file type or recipe, as in {hint}", param_hint="--to"
        )
    if surplus := sorted(made - wanted):
        raise typer.BadParameter(
            f"--types or --recipe are for {surplus[0]}: add {surplus[0]}, or leave them out",
            param_hint="--to",
        )
    return Formats("safetensors" in wanted, recipes=found, **rest)


def _padded(recipe: Recipe) -> Recipe:
    """A GGUF recipe under a name of its own, for its files have other widths."""
    if recipe.to != "gguf" or recipe.pad:
        return recipe
    return replace(recipe, name=f"{recipe.name}-padded", pad=True)


_UNITS = {"": 1, "B": 1} | {
    f"{letter}{form}": base ** (power + 1)
    for form, base in (("B", 1000), ("IB", 1024))
    for power, letter in enumerate("KMGT")
}


def memory_of(text: str) -> int:
    """Bytes of an amount of memory: 12GiB, 16GB, or a plain number."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", text.strip())
    if found is None or found[2].upper() not in _UNITS:
        raise typer.BadParameter(
            f"{text!r}: expected an amount such as 12GiB or 16GB", param_hint="--memory"
        )
    return int(float(found[1]) * _UNITS[found[2].upper()])


def counts_of(text: str | None) -> tuple[int, ...]:
    """Numbers of experts, comma-separated; none for the useful ones."""
    try:
        return tuple(int(word) for word in (text or "").split(",") if word.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: expected numbers such as 90,109", param_hint="--experts"
        ) from None
