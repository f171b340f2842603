"""What the commands about recipes print for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from secateur.system.sizes import show_count

if TYPE_CHECKING:
    from secateur.api.recipes import TensorTypes
    from secateur.recipes.lint import Finding, LintReport
    from secateur.recipes.recipe import Recipe


def list_lines(
    recipes: Mapping[str, Mapping[str, str]], suites: Mapping[str, Iterable[str]]
) -> list[str]:
    """Recipes with what they are about, then suites with what they stand for."""
    lines = [f"{name} ({facts['to']}): {facts['about']}" for name, facts in recipes.items()]
    return lines + [f"suite:{name}: {', '.join(words)}" for name, words in suites.items()]


def recipe_lines(recipe: Recipe) -> list[str]:
    """A recipe, rule by rule."""
    lines = [f"{recipe.name}: {recipe.to}, base {recipe.base}"]
    lines += [f"  {recipe.about}"] if recipe.about else []
    lines += [
        f"  {what}: {kind}"
        for what, kind in (("embedding", recipe.embedding), ("output", recipe.output))
        if kind
    ]
    lines += ["  needs an importance matrix"] if recipe.imatrix else []
    lines += ["  rows that do not divide are widened with zeros"] if recipe.pad else []
    for tier, wanted in recipe.tiers.items():
        share = isinstance(wanted, float)
        lines.append(
            f"  tier {tier}: "
            + (
                f"the next {wanted:.1%} of the layers by importance"
                if share
                else f"layers {wanted}"
            )
        )
    lines += [
        f"  {rule.sentence()}{' (if present)' if rule.if_present else ''}" for rule in recipe.rules
    ]
    return lines + [f"  {pattern} = {kind}" for pattern, kind in recipe.patterns]


def lint_lines(report: LintReport) -> list[str]:
    """Findings, problems first; of rules that differ in the layer only, one stands for all."""
    lines = [
        f"{report.recipe} over {report.base}: {show_count(report.tensors, 'tensor')}, "
        f"{report.tensor_bytes:,} bytes ({report.tensor_bytes / 2**20:,.2f} MiB), "
        f"{report.bits_per_weight:.3f} bits per weight"
    ]
    groups: dict[tuple[bool, str, str], list[Finding]] = {}
    for finding in report.findings:
        rule = re.sub(r"\d+", "N", re.sub(r"^line \d+: ", "", finding.rule))
        groups.setdefault((not finding.problem, finding.kind, rule), []).append(finding)
    for (note, kind, _), found in sorted(groups.items(), key=lambda group: group[0][0]):
        first = found[0]
        others = len(found) - 1
        many = f" and {show_count(others, 'rule')} like it" if others else ""
        nbytes = sum(finding.bytes for finding in found)
        at = f" [{first.first}]" if first.first else ""
        lines.append(
            f"  {'note' if note else 'problem'} {kind}: `{first.rule}`{at} {first.text}{many}: "
            f"{nbytes:+,} bytes"
        )
    if not report.findings:
        lines.append("  nothing is odd")
    return lines


def export_lines(types: TensorTypes, path: object) -> list[str]:
    """Where the file lies, and how llama-quantize is called with it."""
    return [
        f"{path}: {show_count(len(types.types), 'tensor')}",
        f"  llama-quantize --tensor-type-file {path} MODEL-F16.gguf OUT.gguf {types.base}",
    ]
