"""The page of all names that options take: criteria, metrics, types, recipes, roles, families."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from file_pages import page
from page_parts import code, table

from secateur.calibration.observers.registry import OBSERVERS
from secateur.corpus.mix import list_mixes, read_mix
from secateur.evaluation.asked_numbers import asked_numbers
from secateur.evaluation.engine_metrics import ENGINE_METRICS
from secateur.evaluation.metrics.registry import all_metrics
from secateur.families.registry import families
from secateur.formats.ggml.types import INTERNAL_TYPES, TYPES
from secateur.formats.mlx import codec
from secateur.outputs.gguf.mmproj import TYPES_OF_TOWERS
from secateur.outputs.registry import FORMATS
from secateur.pruning.criteria.aggregations import AGGREGATIONS
from secateur.pruning.criteria.registry import CRITERIA
from secateur.recipes.llama_mixes import FILE_TYPES
from secateur.recipes.recipe import LARGE, RECIPES, read_recipe, shipped_recipes
from secateur.recipes.suites import SUITES


def names() -> str:
    """The page's text."""
    return page(
        "Names that options take",
        "## Criteria (`--criterion`)", _helped(CRITERIA), "## Aggregations (`--aggregation`)",
        _helped(AGGREGATIONS), "## Sums on request (`--observe`)", _helped(OBSERVERS),
        "## Metrics (`--gate`)", _metrics(),
        "Of models that were asked, with `--tasks`, `--loops` or `--speed`:", _asked_numbers(),
        "## Formats (`--to`)", _words(FORMATS),
        "## File types (`--types`)",
        "llama-quantize's, with its rules for every tensor: " + _words(FILE_TYPES),
        "With embedding and output in Q8_0: " + _words(LARGE),
        "## Suites (`--types suite:NAME`)",
        table(("suite", "types"), [(code(name), _words(types)) for name, types in SUITES.items()]),
        "## Recipes (`--types`)", _recipes(), "## Types of a tensor (rules of recipes)", _types(),
        "For MLX: " + _words(codec.TYPES),
        "For a vision tower (`--mmproj`): " + _words(TYPES_OF_TOWERS),
        "## Mixes (`--corpus`)", _mixes(), "## Roles", _roles(),
    )  # fmt: skip


def _helped(registry: Mapping[str, Any]) -> str:
    return table(
        ("name", "what it is"),
        [(code(name), one.help) for name, one in registry.items()],
    )


def _words(words: Iterable[str]) -> str:
    return ", ".join(map(code, words))


def _asked_numbers() -> str:
    return table(
        ("number", "of", "better"),
        [(code(name), one.kind, one.better) for name, one in asked_numbers().items()],
    )


def _metrics() -> str:
    return table(
        ("metric", "unit", "better", "what it is"),
        [
            (code(one.name), one.unit, one.better or "", one.help)
            for one in (*all_metrics(), *ENGINE_METRICS)
        ],
    )


def _recipes() -> str:
    found = {name: read_recipe(RECIPES / f"{name}.yaml") for name in shipped_recipes()}
    return table(
        ("recipe", "for", "base", "what it is"),
        [(code(name), one.to, one.base, one.about) for name, one in found.items()],
    )


def _types() -> str:
    return table(
        ("type", "elements of a block", "bits per weight"),
        [
            (code(one.name), str(one.block), f"{one.bits_per_weight:.4g}")
            for one in TYPES.values()
            if one.name not in INTERNAL_TYPES
        ],
    )


def _mixes() -> str:
    found = {name: read_mix(name) for name in list_mixes()}
    return table(
        ("mix", "sources"),
        [(code(name), ", ".join(one.name for one in mix.sources)) for name, mix in found.items()],
    )


def _roles() -> str:
    """The roles of every family's tensors."""
    return table(
        ("family", "`model_type`", "roles"),
        [
            (
                f"{code(one.name)} ({one.title})",
                _words(one.model_types),
                _words(sorted({row.role for row in one.rows if not row.carried})),
            )
            for one in families()
            if one.sha256 is None  # a family of the user is none of ours
        ],
    )
