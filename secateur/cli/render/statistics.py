"""What the commands about statistics print for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.statistics.coverage import coverage

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
        f"{summary['samples']:,} documents ({counts})"
    ]
    if summary["skipped"]:
        lines.append(f"  {summary['skipped']} tokens became NaN or infinite and were left out")
    lines += [f"  warning: {warning}" for warning in summary["warnings"]]
    return lines + [f"  {sentence}" for sentence in summary["coverage"]]
