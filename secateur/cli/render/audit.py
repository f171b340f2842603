"""What `secateur audit` prints for people."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from secateur.audit.finding import VERDICTS, Finding
from secateur.formats.gguf.provenance import ROUNDING
from secateur.system.sizes import show_count, show_in_both_units

if TYPE_CHECKING:
    from secateur.api.audit import Audit
    from secateur.audit.gguf.identify import Identity

_TITLES = {
    "wrong": "wrong",
    "unproven": "not shown by the numbers given",
    "other unit": "true in another unit than the one written",
    "holds": "holds",
    "unchecked": "cannot be checked here",
}
_SHORT = {
    "wrong": "wrong",
    "unproven": "unproven",
    "other unit": "in another unit",
    "holds": "hold",
    "unchecked": "unchecked",
}
_FOLDED = 4
"""So many statements of one kind, true in another unit, become one line."""


def audit_lines(found: Audit, everything: bool = False) -> list[str]:
    """The file, the card, the Modelfile; `everything` also lists what holds or is unchecked."""
    lines = identity_lines(found.file, everything) if found.file is not None else []
    if found.card is not None:
        counts = ", ".join(f"{n} {_SHORT[verdict]}" for verdict, n in found.counts().items() if n)
        lines.append(f"{found.card}: {len(found.claims)} statements checked: {counts or 'none'}")
        lines += _findings(found.claims, everything)
    if found.modelfile is not None:
        lines.append(f"{found.modelfile}:")
        right = [one for one in found.instructions if one.verdict in ("holds", "unchecked")]
        if len(right) == len(found.instructions):
            lines.append("  nothing wrong")
        lines += _findings(found.instructions, everything)
    return lines


def identity_lines(found: Identity, everything: bool = False) -> list[str]:
    """A file at a glance."""
    lines = [f"{found.source}: {found.architecture} ({found.family or 'no family known here'})"]
    fetched = f", {found.fetched:,} bytes fetched" if found.fetched else ""
    if not found.tensors:
        lines.append(f"  a vocabulary without tensors; header {found.header:,} bytes{fetched}")
        return lines + _findings(found.findings, everything)
    experts = f"{found.experts} experts, {found.top_k} per token" if found.experts else "no experts"
    lines += [
        f"  {found.layers} layers, {experts}; {found.tensors} tensors, "
        f"{found.parameters / 1e6:,.2f} M parameters",
        f"  {show_in_both_units(found.data)} of tensors, {found.bits_per_weight:.3f} bits per "
        f"weight; header {found.header:,} bytes{fetched}",
    ]
    for role, kinds in found.roles.items():
        stated = ", ".join(
            f"{count} x {kind} ({show_in_both_units(nbytes)})"
            for kind, (count, nbytes) in kinds.items()
        )
        lines.append(f"    {role}: {stated}")
    if found.reproduced is not None:
        made = found.reproduced
        exact = not made.differing
        lines.append(f"  made as {made.way}" if exact else f"  nearest to {made.way}")
        lines += [f"    or as {way}: the same types" for way in made.also]
        lines += [f"    {name}: {has}, not {gives}" for name, has, gives in made.differing[:10]]
        if len(made.differing) > 10:
            lines.append(f"    and {show_count(len(made.differing) - 10, 'more tensor')}")
        if made.fallbacks:
            pairs = sorted({f"{asked} -> {got}" for _, asked, got in made.fallbacks})
            lines.append(
                f"  {show_count(len(made.fallbacks), 'tensor')} fell back: {', '.join(pairs)}"
            )
    lines += [f"  imatrix {key}: {value}" for key, value in found.imatrix.items()]
    if found.rounding is not None:
        lines.append(f"  {ROUNDING}: {found.rounding}")
    return lines + _findings(found.findings, everything)


def _findings(findings: tuple[Finding, ...], everything: bool) -> list[str]:
    lines = []
    for verdict in VERDICTS:
        if verdict in ("holds", "unchecked") and not everything:
            continue
        chosen = [finding for finding in findings if finding.verdict == verdict]
        if not chosen:
            continue
        if verdict == "other unit":
            chosen.sort(key=lambda finding: finding.topic)
        lines.append(f"  {_TITLES[verdict]}:")
        for topic, group in groupby(chosen, key=lambda finding: finding.topic):
            same = list(group)
            if verdict == "other unit" and len(same) >= _FOLDED and not everything:
                numbers = [finding.line for finding in same]
                lines.append(
                    f"    {topic}: {len(same)} sizes, lines {numbers[0]} to {numbers[-1]}, "
                    f"as {same[0].must} in: {same[0].said}"
                )
                continue
            lines += [f"    {topic}: {finding.sentence()}" for finding in same]
    return lines
