"""What the command line prints for people: a few lines per result, every number with its unit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.checkpoint.inspection import Inspection
    from secateur.outputs.fit import Fit
    from secateur.planning.document import Plan, PlannedTensor
    from secateur.release.report import Report

_TENTHS = (0.0, 0.125, 0.25, 0.375, 0.5)


def amount(number: float, unit: str) -> str:
    """A number with its unit; bytes in decimal multiples."""
    if unit != "bytes":
        return f"{number:,.0f} {unit}"
    for size, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{number / size:.2f} {name}"
    return f"{number:.0f} B"


def inspection_lines(found: Inspection) -> list[str]:
    """A model at a glance, and what it would be with fewer experts."""
    lines = [
        f"{found.source}: {found.family}",
        f"  {found.layers} layers, {found.moe_layers} with {found.experts} routed experts, "
        f"{found.top_k} per token",
        f"  {found.parameters / 1e6:,.2f} M parameters, {found.active / 1e6:,.2f} M active per "
        f"token, {found.tensors} tensors, {amount(found.bytes, 'bytes')}",
    ]
    if found.revision:
        lines.append(f"  revision {found.revision}")
    lines += [
        f"  {name}: {part.tensors} tensors, {part.parameters / 1e6:,.2f} M parameters, "
        f"{amount(part.bytes, 'bytes')}"
        for name, part in found.parts.items()
    ]
    lines.append("  with fewer experts:")
    for share in _TENTHS[1:]:
        kept = found.experts - int(found.experts * share)
        if kept >= found.top_k:
            parameters, nbytes = found.with_experts(kept)
            lines.append(
                f"    --experts {kept} (drop {share:.1%}): {parameters / 1e6:,.2f} M parameters, "
                f"{amount(nbytes, 'bytes')}"
            )
    return lines


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


def plan_lines(plan: Plan, out: Path | None, *, tensors: bool = False) -> list[str]:
    """The decisions of a plan, by format and type, or down to every one of its tensors."""
    chosen = "not decided which" if plan.selection.get("stand_in") else "as given"
    lines = [
        f"{plan.model['source']}: {plan.experts} of {plan.model['experts']} experts stay in each "
        f"of {len(plan.keep)} layers ({plan.selection.get('criterion') or chosen})"
    ]
    for form in plan.formats:
        kinds: dict[str, list[int]] = {}
        for tensor in plan.of(form):
            counted = kinds.setdefault(tensor.type, [0, 0])
            counted[0] += 1
            counted[1] += tensor.bytes
        lines.append(f"  {form}: {_sizes(plan, form)}")
        lines += _output_lines(plan, form)
        lines += [
            f"    {name}: {count} tensors, {amount(nbytes, 'bytes')}"
            for name, (count, nbytes) in sorted(kinds.items(), key=lambda item: -item[1][1])
        ]
        lines += [_tensor_line(tensor) for tensor in plan.of(form) if tensors]
    if plan.memory:
        lines.append(f"  memory counts {plan.memory['rule']}")
    lines += [f"  note: {note}" for note in plan.notes]
    return [*lines, f"  written to {out}"] if out is not None else lines


def _tensor_line(tensor: PlannedTensor) -> str:
    shape = "x".join(map(str, tensor.shape))
    why = f": {tensor.reason}" if tensor.reason else ""
    instead = f" instead of {tensor.fallback_from}" if tensor.fallback_from else ""
    return f"    {tensor.name} [{shape}] {tensor.type}{instead}, {tensor.bytes:,} bytes{why}"


def _sizes(plan: Plan, form: str) -> str:
    """The exact bytes of a format's files, or of its tensors where the files' are not known."""
    files, tensors = plan.file_bytes(form), plan.tensor_bytes(form)
    if files is None:
        return (
            f"{amount(tensors, 'bytes')} of tensors ({tensors:,} bytes), size of the file not known"
        )
    return f"{amount(files, 'bytes')} ({files:,} bytes) in {len(plan.files[form])} file(s)"


def _output_lines(plan: Plan, form: str) -> list[str]:
    """Bits, fallbacks, importance matrix and memory of a format."""
    found = plan.output(form)
    line = f"    {found.bits_per_weight:.3f} bits per weight"
    if found.needs_imatrix is not None:
        line += (
            f", {found.fallback_tensors} tensors fell back ({found.fallback_share:.1%} of "
            f"{found.parameters / 1e6:,.2f} M parameters), "
            + ("needs an importance matrix" if found.needs_imatrix else "needs no imatrix")
        )
    if found.memory_bytes is None:
        return [line]
    cache, logits = plan.memory["kv_cache_bytes"], plan.memory["logits_bytes"]
    return [
        line,
        f"    {amount(found.memory_bytes, 'bytes')} of memory with {plan.memory['context']:,} "
        f"tokens of context (cache {amount(cache, 'bytes')}, logits {amount(logits, 'bytes')})",
    ]


def fit_lines(found: Fit) -> list[str]:
    """The table of what fits: one line per number of experts and file type."""
    memory = found.memory.to_json()
    lines = [
        f"{found.source}: {len(found.rows)} of {found.tried} combinations fit in "
        f"{found.available:,} bytes ({found.available / 2**30:.2f} GiB) with {memory['context']:,} "
        f"tokens of context (cache {amount(memory['kv_cache_bytes'], 'bytes')}, logits "
        f"{amount(memory['logits_bytes'], 'bytes')})"
    ]
    lines += [
        f"  {row.experts:>4} experts  {row.type:<12} {row.weights / 2**30:7.2f} GiB of tensors, "
        f"{row.bits_per_weight:6.3f} bits, {row.total / 2**30:7.2f} GiB in all, "
        + (f"file {row.file:,} bytes" if row.file is not None else f"tensors {row.weights:,} bytes")
        + (", needs an imatrix" if row.needs_imatrix else "")
        for row in found.rows
    ]
    return [*lines, f"  memory counts {memory['rule']}", *(f"  note: {n}" for n in found.notes)]


def output_lines(out: Path, manifest: Mapping[str, Any]) -> list[str]:
    """The files of an output."""
    files = manifest["files"]
    total = sum(entry["bytes"] for entry in files.values())
    return [
        f"{out}: {len(files)} files, {amount(total, 'bytes')}",
        *(f"  {name}: {amount(entry['bytes'], 'bytes')}" for name, entry in files.items()),
    ]


def measurement_lines(report: Report) -> list[str]:
    """Per artefact the pooled numbers, then the mean divergence of every domain."""
    lines = [
        f"against {report.original}, on {report.answers['answers']} of its own answers "
        f"({report.answers['tokens']:,} assistant tokens):"
    ]
    for artefact in report.artefacts:
        share = artefact.bytes / report.original_bytes
        lines.append(
            f"  {artefact.name}: {amount(artefact.bytes, 'bytes')}, {share:.1%} of the original"
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
