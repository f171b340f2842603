"""What `secateur plan` and `secateur fit` print for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from secateur.system.sizes import show_bytes

if TYPE_CHECKING:
    from secateur.outputs.fit import Fit
    from secateur.planning.document import Plan, PlannedTensor


def plan_lines(plan: Plan, out: Path | None, *, tensors: bool = False) -> list[str]:
    """The decisions of a plan, by format and type, or down to every one of its tensors."""
    chosen = "not decided which" if plan.selection.get("stand_in") else "as given"
    lines = [
        f"{plan.model['source']}: {plan.experts} of {plan.model['experts']} experts kept in each "
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
            f"    {name}: {count} tensors, {show_bytes(nbytes)}"
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
        return f"{show_bytes(tensors)} of tensors ({tensors:,} bytes), size of the file not known"
    return f"{show_bytes(files)} ({files:,} bytes) in {len(plan.files[form])} file(s)"


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
        f"    {show_bytes(found.memory_bytes)} of memory with {plan.memory['context']:,} "
        f"tokens of context (cache {show_bytes(cache)}, logits {show_bytes(logits)})",
    ]


def fit_lines(found: Fit) -> list[str]:
    """The table of what fits: one line per number of experts and file type."""
    memory = found.memory.to_json()
    lines = [
        f"{found.source}: {len(found.rows)} of {found.tried} combinations fit in "
        f"{found.available:,} bytes ({found.available / 2**30:.2f} GiB) with {memory['context']:,} "
        f"tokens of context (cache {show_bytes(memory['kv_cache_bytes'])}, logits "
        f"{show_bytes(memory['logits_bytes'])})"
    ]
    lines += [
        f"  {row.experts:>4} experts  {row.type:<12} {row.weights / 2**30:7.2f} GiB of tensors, "
        f"{row.bits_per_weight:6.3f} bits, {row.total / 2**30:7.2f} GiB in all, "
        + (f"file {row.file:,} bytes" if row.file is not None else f"tensors {row.weights:,} bytes")
        + (", needs an imatrix" if row.needs_imatrix else "")
        for row in found.rows
    ]
    return [*lines, f"  memory counts {memory['rule']}", *(f"  note: {n}" for n in found.notes)]
