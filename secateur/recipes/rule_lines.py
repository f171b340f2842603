"""Every rule of a recipe with the tensors it matches, and those it matches by accident.

A pattern of a tensor-type file is searched anywhere in a name. It names a tensor when it fills
whole parts of the name between dots: `ffn_gate` names `blk.0.ffn_gate.weight`, and matches
`blk.0.ffn_gate_up_exps.weight` by accident. A pattern that could name no tensor of the family
(`exps`) is a fragment on purpose, and matches nothing by accident.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.families.schema import Family
from secateur.formats.gguf.container import TensorInfo
from secateur.recipes.assign import Target, match
from secateur.recipes.llama_mixes import ModelTraits
from secateur.recipes.llama_types import compiled_pattern
from secateur.recipes.patterns import name_pattern
from secateur.recipes.recipe import Recipe


@dataclass(frozen=True)
class LintContext:
    """The tensors of a GGUF as rules see them, before any type is chosen.

    `known` are the names of all tensors that the family may have, here or in another model.
    """

    infos: tuple[TensorInfo, ...]
    targets: tuple[Target, ...]
    traits: ModelTraits
    known: frozenset[str]


@dataclass(frozen=True, slots=True)
class RuleLine:
    """One rule: as a person would point at it, its type, and the names it matches in file order.

    `accidental` are the names among them that it only matches by accident; `optional`
    says that it may match none.
    """

    rule: str
    type: str
    tensors: tuple[str, ...]
    accidental: frozenset[str] = frozenset()
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
    context: LintContext,
    importance: Sequence[float] | None = None,
    lines: Sequence[int] = (),
) -> list[RuleLine]:
    """The recipe's rules, then its patterns, in the order in which they are tried.

    `importance` [layers] is for tiers by share; `lines` are the patterns' line numbers in their
    file. Raises PlanError as `assign.match` and `compiled_pattern` do.
    """
    matched = match(recipe, context.targets, context.traits.layers, importance)
    found = [
        RuleLine(rule.sentence(), rule.type.upper(), tuple(names), optional=rule.if_present)
        for rule, names in zip(recipe.rules, matched, strict=True)
    ]
    for number, (pattern, kind) in enumerate(recipe.patterns):
        where = f"line {lines[number]}: " if lines else ""
        found.append(_pattern_line(f"{where}{pattern}={kind.lower()}", pattern, kind, context))
    return found


def _pattern_line(rule: str, pattern: str, kind: str, context: LintContext) -> RuleLine:
    expression = compiled_pattern(pattern)
    matched = tuple(info.name for info in context.infos if expression.search(info.name))
    whole = name_pattern(f"(?:(?<![^.])|(?=[.]))(?:{expression.pattern})(?:(?![^.])|(?<=[.]))")
    accidental = frozenset(name for name in matched if not whole.search(name))
    if accidental and not any(whole.search(name) for name in context.known):
        accidental = frozenset()
    return RuleLine(rule, kind, matched, accidental)
