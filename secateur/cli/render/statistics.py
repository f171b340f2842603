"""What the commands about statistics print for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.statistics.coverage import coverage
from secateur.system.sizes import show_count

if TYPE_CHECKING:
    from secateur.statistics.statistics import Statistics


def calibration_summary(found: Statistics, out: Path) -> dict[str, Any]:
    """What a calibration run saw, as JSON."""
    return {
        "statistics": str(out),
        "tokens": dict(found.tokens),
        "skipped": found.skipped,
        "samples": len(found.samples),
        "warnings": [w for corpus in found.corpora for w in corpus.get("warnings", ())],
        "coverage": coverage(found).sentences(),
    }


def calibration_lines(summary: Mapping[str, Any]) -> list[str]:
    """What a calibration run saw."""
    counts = ", ".join(f"{name} {count:,}" for name, count in summary["tokens"].items())
    lines = [
        f"{summary['statistics']}: {sum(summary['tokens'].values()):,} tokens of "
        f"{show_count(summary['samples'], 'document')} ({counts})"
    ]
    if summary["skipped"]:
        lost = show_count(summary["skipped"], "token")
        lines.append(f"  {lost} left out that became NaN or infinite")
    lines += [f"  warning: {warning}" for warning in summary["warnings"]]
    return lines + [f"  {sentence}" for sentence in summary["coverage"]]
