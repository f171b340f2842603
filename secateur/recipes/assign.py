"""A recipe's rules applied to the tensors of one output."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from secateur.errors import PlanError
from secateur.recipes.layers import layers_named, tiers_of
from secateur.recipes.patterns import name_pattern
from secateur.recipes.recipe import Recipe, Rule


@dataclass(frozen=True, slots=True)
class Target:
    """An output tensor as rules see it; `role` is of the family's row, `layer` None outside."""

    name: str
    role: str
    layer: int | None


@dataclass(frozen=True, slots=True)
class Assigned:
    """What a rule gives a tensor, and the rule as a sentence."""

    type: str
    reason: str


def assign(
    recipe: Recipe,
    targets: Sequence[Target],
    layers: int,
    importance: Sequence[float] | None = None,
) -> dict[str, Assigned]:
    """{tensor name: what the first matching rule gives it}, for the tensors that a rule names.

    `importance` [layers] decides tiers that are shares. Raises PlanError for a rule that matches
    no tensor, or layers that do not exist.
    """
    matched = match(recipe, targets, layers, importance)
    assigned: dict[str, Assigned] = {}
    for rule, names in zip(recipe.rules, matched, strict=True):
        if not names and not rule.if_present:
            raise PlanError(
                f"recipe {recipe.name}: the rule `{rule.sentence()}` matches no tensor of this "
                f"model{role_hint(rule.roles, targets)}: correct it, or say `if_present: true`"
            )
        for name in names:
            assigned.setdefault(name, Assigned(rule.type, f"recipe: {rule.sentence()}"))
    return assigned


def match(
    recipe: Recipe,
    targets: Sequence[Target],
    layers: int,
    importance: Sequence[float] | None = None,
) -> list[list[str]]:
    """Per rule the names of all tensors it matches, whether or not an earlier rule had them."""
    tiers = tiers_of(recipe.tiers, layers, importance)
    found = []
    for rule in recipe.rules:
        named = layers_named(rule.layers, layers, tiers) if rule.layers else None
        found.append([target.name for target in targets if _matches(rule, target, named)])
    return found


def role_hint(roles: Sequence[str], targets: Sequence[Target]) -> str:
    """What to say of roles that no tensor has: the nearest one, and all there are; else nothing."""
    known = {target.role for target in targets}
    groups = {role.partition(".")[0] for role in known}
    unknown = [role for role in roles if role not in known | groups]
    if not unknown:
        return ""
    close = difflib.get_close_matches(unknown[0], sorted(known | groups), n=1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    return f"; {unknown[0]!r} is no role of it{meant}, its roles are {', '.join(sorted(known))}"


def _matches(rule: Rule, target: Target, layers: frozenset[int] | None) -> bool:
    if layers is not None and target.layer not in layers:
        return False
    if rule.roles and not any(
        target.role == role or target.role.startswith(f"{role}.") for role in rule.roles
    ):
        return False
    return not rule.name or name_pattern(rule.name).fullmatch(target.name)
