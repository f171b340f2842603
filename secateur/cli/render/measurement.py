"""What `secateur measure` and `secateur shrink` print for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from secateur.system.sizes import show_bytes

if TYPE_CHECKING:
    from secateur.release.report import Report


def measurement_lines(report: Report) -> list[str]:
    """Per artefact the pooled numbers, then the mean divergence of every domain."""
    lines = [
        f"against {report.original}, on {report.answers['answers']} of its own answers "
        f"({report.answers['tokens']:,} assistant tokens):"
    ]
    for artefact in report.artefacts:
        share = artefact.bytes / report.original_bytes
        lines.append(
            f"  {artefact.name}: {show_bytes(artefact.bytes)}, {share:.1%} of the original"
        )
        for name in ("kl_mean", "kl_median", "kl_p99", "top1_agreement", "perplexity_ratio"):
            if entry := artefact.value(name):
                lines.append(f"    {entry}")
        for kind, domain in artefact.groups:
            entry = artefact.value("kl_mean", domain, kind)
            if entry and kind == "answers" and domain != "pooled":
                lines.append(f"    {entry}")
    return lines


def shrink_lines(report: Report, out: Path) -> list[str]:
    """The end of the main job: what was found, and where the report lies."""
    lines = [f"note: {note}" for note in report.notes]
    for form, sizes in report.sizes.items():
        same = "as predicted" if sizes["predicted"] == sizes["written"] else "NOT as predicted"
        lines.append(f"{form}: {sizes['written']:,} bytes, {same}")
    return [*lines, *measurement_lines(report), f"report: {out / 'report.md'}"]
