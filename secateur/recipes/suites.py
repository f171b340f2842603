"""Ladders: many recipes in one word, `--types suite:bartowski`.

Larger files come first. `bartowski` are the 24 quantized files that he and others after him
publish of a model (the standard table of ManniX-ITA's gemma-4-A4B-109e-v3-GGUF). Q3_K_XL is
Q3_K_L with embedding and output in Q8_0, as its name has it; in that table the file was made from
Q3_K_M, and is smaller than Q3_K_L.
"""

from __future__ import annotations

from secateur.errors import PlanError
from secateur.recipes.recipe import Recipe, find_recipe

PREFIX = "suite:"

SUITES: dict[str, tuple[str, ...]] = {
    "bartowski": (
        "Q8_0", "Q6_K_L", "Q6_K", "Q5_K_L", "Q5_K_M", "Q5_K_S", "Q4_K_L", "Q4_K_M", "Q4_K_S",
        "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K_XL", "Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M",
        "IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS",
    ),
    "contrib-dynamic": ("CD-Q6_K", "CD-Q5_K_M", "CD-Q4_K_M", "CD-Q3_K_M", "CD-Q2_K"),
    "apex": (
        "apex-quality", "apex-balanced", "apex-compact", "apex-mini", "apex-nano", "apex-micro",
    ),
}  # fmt: skip
"""Name -> words of `find_recipe`."""


def find_recipes(word: str) -> tuple[Recipe, ...]:
    """The recipes of a word: those of a suite (`suite:NAME`), or one.

    Raises PlanError that lists what there is.
    """
    if not word.lower().startswith(PREFIX):
        return (find_recipe(word),)
    name = word[len(PREFIX) :].lower()
    if name not in SUITES:
        raise PlanError(f"unknown suite {name!r}: known are {', '.join(SUITES)}")
    return tuple(map(find_recipe, SUITES[name]))
