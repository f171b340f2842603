"""Every rule of a recipe with the tensors it meets, and those it meets by accident.

A pattern of a tensor-type file is searched anywhere in a name. It names a tensor when it fills
whole parts of the name between dots: `ffn_gate` names `blk.0.ffn_gate.weight`, and meets
`blk.0.ffn_gate_up_exps.weight` beside it. A pattern that could name no tensor of the family
(`exps`) is a fragment on purpose, and meets nothing beside.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from secateur.families.schema import Family
from secateur.formats.gguf.container import TensorInfo
from secateur.recipes.assign import Target, match
from secateur.recipes.llama_mixes import ModelTraits
from secateur.recipes.llama_types import compiled_pattern
from secateur.recipes.recipe import Recipe


@dataclass(frozen=True)
class Ground:
    """The tensors of a GGUF as rules see them, before any type is chosen.

    `known` are the names of all tensors that the family may have, here or in another model.
    """

    infos: tuple[TensorInfo, ...]
    targets: tuple[Target, ...]
    traits: ModelTraits
    known: frozenset[str]


@dataclass(frozen=True, slots=True)
class RuleLine:
    """One rule: as a person would point at it, its type, and the names it meets in file order.

    `beside` are the names among them that it only meets by accident; `optional` says that it may
    meet none.
    """

    rule: str
    type: str
    tensors: tuple[str, ...]
    beside: frozenset[str] = frozenset()
    optional: bool = False


def known_names(family: Family, layers: int) -> frozenset[str]:
    """GGUF names of every row of a family, in every layer."""
    return frozenset(
        name.replace("{layer}", str(layer))
        for row in family.rows
        for name in row.gguf
        for layer in range(layers)
    )


def rule_lines(
    recipe: Recipe,
    ground: Ground,
    importance: Sequence[float] | None = None,
    lines: Sequence[int] = (),
) -> list[RuleLine]:
    """The recipe's rules, then its patterns, in the order in which they are tried.

    `importance` [layers] is for tiers by share; `lines` are the patterns' line numbers in their
    file. Raises PlanError as `assign.match` and `compiled_pattern` do.
    """
    met = match(recipe, ground.targets, ground.traits.layers, importance)
    found = [
        RuleLine(rule.sentence(), rule.type.upper(), tuple(names), optional=rule.if_present)
        for rule, names in zip(recipe.rules, met, strict=True)
    ]
    for number, (pattern, kind) in enumerate(recipe.patterns):
        where = f"line {lines[number]}: " if lines else ""
        found.append(_pattern_line(f"{where}{pattern}={kind.lower()}", pattern, kind, ground))
    return found


def _pattern_line(rule: str, pattern: str, kind: str, ground: Ground) -> RuleLine:
    expression = compiled_pattern(pattern)
    met = tuple(info.name for info in ground.infos if expression.search(info.name))
    whole = re.compile(f"(?:(?<![^.])|(?=[.]))(?:{expression.pattern})(?:(?![^.])|(?<=[.]))")
    beside = frozenset(name for name in met if not whole.search(name))
    if beside and not any(whole.search(name) for name in ground.known):
        beside = frozenset()
    return RuleLine(rule, kind, met, beside)
