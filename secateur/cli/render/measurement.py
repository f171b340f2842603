"""What `secateur measure` and `secateur shrink` print for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from secateur.evaluation.compare import Comparison
from secateur.evaluation.engine_metrics import ENGINE_METRICS, KIND
from secateur.evaluation.measurement import POOLED
from secateur.release.report import Report, summary_metrics
from secateur.system.sizes import show_bytes


def measurement_lines(report: Report) -> list[str]:
    """Per artefact the pooled numbers, then the first metric of every domain, then llama.cpp's."""
    printed = summary_metrics()
    lines = [
        f"against {report.original}, on {report.answers['answers']} of its own answers "
        f"({report.answers['tokens']:,} assistant tokens):"
    ]
    for artefact in report.artefacts:
        share = artefact.bytes / report.original_bytes
        lines.append(
            f"  {artefact.name}: {show_bytes(artefact.bytes)}, {share:.1%} of the original"
        )
        found = [artefact.value(metric.name) for metric in printed]
        found += [
            artefact.value(printed[0].name, domain)
            for kind, domain in artefact.groups
            if kind == "answers" and domain != POOLED
        ]
        found += [artefact.value(metric.name, kind=KIND) for metric in ENGINE_METRICS]
        lines += [f"    {entry}" for entry in found if entry is not None]
    return lines


def comparison_lines(names: tuple[str, str], found: Sequence[Comparison]) -> list[str]:
    """On the answers: the differences over all domains, then the first metric's in each."""
    first, second = names
    on_answers = [entry for entry in found if entry.difference.kind == "answers"]
    return [
        f"{first} against {second}, first minus second:",
        *(
            f"  {entry.difference}: {entry.verdict}"
            for entry in on_answers
            if entry.difference.domain == POOLED or entry.metric == on_answers[0].metric
        ),
    ]


def shrink_lines(report: Report, out: Path) -> list[str]:
    """The end of the main job: what was found, and where the report lies."""
    lines = [f"note: {note}" for note in report.notes]
    for form, sizes in report.sizes.items():
        same = "as predicted" if sizes["predicted"] == sizes["written"] else "NOT as predicted"
        lines.append(f"{form}: {sizes['written']:,} bytes, {same}")
    return [*lines, *measurement_lines(report), f"report: {out / 'report.md'}"]
