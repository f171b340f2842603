"""What `secateur plan` prints for people."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.cli.render.table import Table
from secateur.formats.ggml.codec import UNWEIGHED
from secateur.planning.document import IMATRIX
from secateur.system.sizes import show_bytes, show_count

if TYPE_CHECKING:
    from secateur.planning.document import Plan, PlannedTensor


def plan_lines(
    plan: Plan, out: Path | None, *, types: bool = False, tensors: bool = False
) -> list[str | Table]:
    """The decisions of a plan: a row per format, with `types` or `tensors` what it is made of."""
    chosen = "not decided which" if plan.selection.get("stand_in") else "as given"
    lines: list[str | Table] = [
        f"{plan.model['source']}: {plan.experts} of {plan.model['experts']} experts kept in each "
        f"of {len(plan.keep)} layers ({plan.selection.get('criterion') or chosen})",
        _formats(plan),
    ]
    for form in plan.formats:
        if types:
            lines += [f"{form}, by type:", _types(plan, form)]
        if tensors:
            lines += [f"{form}:", *(_tensor_line(tensor) for tensor in plan.of(form))]
    if plan.memory:
        cache, logits = plan.memory["kv_cache_bytes"], plan.memory["logits_bytes"]
        lines.append(
            f"memory in llama.cpp with {plan.memory['context']:,} tokens of context (cache "
            f"{show_bytes(cache)}, logits {show_bytes(logits)}): {plan.memory['rule']}"
        )
    lines += [f"note: {note}" for note in (plan.notes if types else fold_notes(plan))]
    return [*lines, f"written to {out}"] if out is not None else lines


def fold_notes(plan: Plan) -> list[str]:
    """The notes of a plan; of those that say the same of several formats, one stands for all."""
    groups: dict[str, list[str]] = {}
    for note in plan.notes:
        form, _, text = note.partition(": ")
        key = re.sub(r"\d+%|\([^)]*\)", "", text) if form in plan.formats else note
        groups.setdefault(key, []).append(note)
    return [
        first
        if not others
        else f"{first}; {show_count(len(others), 'format')} like it (-v shows all)"
        for first, *others in groups.values()
    ]


def _formats(plan: Plan) -> Table:
    head = ["format", "size", "bytes", "bits/weight", "fell back", "imatrix", "memory"]
    return Table(head, [[form, *_facts(plan, form)] for form in plan.formats], "lrrrrl")


def _facts(plan: Plan, form: str) -> list[str]:
    """Exact bytes of the files, or of the tensors where the files' are not known; bits; memory."""
    files, found = plan.file_bytes(form), plan.output(form)
    nbytes = plan.tensor_bytes(form) if files is None else files
    fell_back = imatrix = ""
    if found.needs_imatrix is not None:
        fell_back = f"{found.fallback_tensors} ({found.fallback_share:.1%})"
        imatrix = "needed" if found.needs_imatrix else "not needed"
        if plan.selection.get(IMATRIX) and any(t.type not in UNWEIGHED for t in plan.of(form)):
            imatrix = "used"
    return [
        show_bytes(nbytes),
        f"{nbytes:,}" + (" of tensors" if files is None else ""),
        f"{found.bits_per_weight:.3f}",
        fell_back,
        imatrix,
        "" if found.memory_bytes is None else show_bytes(found.memory_bytes),
    ]


def _types(plan: Plan, form: str) -> Table:
    kinds: dict[str, list[int]] = {}
    for tensor in plan.of(form):
        counted = kinds.setdefault(tensor.type, [0, 0])
        counted[0] += 1
        counted[1] += tensor.bytes
    ordered = sorted(kinds.items(), key=lambda item: -item[1][1])
    return Table(
        ["type", "tensors", "size"],
        [[name, str(count), show_bytes(nbytes)] for name, (count, nbytes) in ordered],
    )


def _tensor_line(tensor: PlannedTensor) -> str:
    shape = "x".join(map(str, tensor.shape))
    why = f": {tensor.reason}" if tensor.reason else ""
    instead = f" instead of {tensor.fallback_from}" if tensor.fallback_from else ""
    return f"  {tensor.name} [{shape}] {tensor.type}{instead}, {tensor.bytes:,} bytes{why}"
