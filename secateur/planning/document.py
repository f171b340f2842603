"""The plan: for every output tensor its sources, what happens to it, its type and exact bytes.

A plan holds no globs, defaults or "auto": it is what a person reviews (and may edit) before a
single weight is read, and all that `apply` obeys. As JSON it is one object:

    {"secateur": "0.1.0", "model": {...}, "selection": {...}, "notes": [...],
     "experts": 32, "keep": {"0": [0, 2, ...], ...},
     "tensors": [{"format", "name", "action", "sources", "type", "shape", "bytes",
                  "fallback_from"?, "reason"?}, ...],
     "tensor_bytes": {format: n}, "file_bytes": {format: n}, "files": {format: {name: n}},
     "formats": {format: {"to", "recipe", "base", "sha256"}},
     "memory": {"context", "kv_cache_bytes", ...},
     "outputs": {format: {"parameters", "bits_per_weight", "fallback_tensors", "fallback_share",
                          "needs_imatrix", "memory_bytes"}}}

A format is `safetensors`, or what it is for and the name of its recipe, as in `gguf-Q4_K_M`,
`gguf-apex-mini`, `mlx-mixed-4-8` or `mmproj-F16`, the GGUF of a vision tower (recipe.py);
`formats` tells which recipe that was. A plan made from a config without a tokenizer knows every
tensor of a GGUF to the byte, but not the file: its size is null. `memory` is what llama.cpp needs
beside the weights (memory.py); `outputs` follows from the rest, `fallback_share` being the share
of parameters.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from secateur import __version__
from secateur.errors import PlanError

Action = Literal[
    "copy", "select", "convert", "select+convert", "pad+convert", "select+pad+convert", "generate"
]
"""copy: the bytes as they are. select: only the kept experts' bytes. pad: zeros up to the planned
shape. convert: numbers into the planned type. generate: made from the config (rotary factors)."""

SAFETENSORS = "safetensors"

IMATRIX = "imatrix"
"""In a plan's `selection`: the facts of the importance matrix it quantizes with, or None."""

IMATRIX_FROM = "imatrix_from"
"""In a plan's `selection`: what that matrix is made of, and how it treats experts without data."""

NEEDS_IMATRIX = "needs_imatrix"
"""In a plan's `formats`: whether llama.cpp refuses to make it without an importance matrix."""

PATH = "path"
"""In a plan's `model`: the folder as the user named it, so that `apply` finds it again."""


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One output tensor. `shape` is in row-major order, `bytes` is its data without padding."""

    format: str
    name: str
    action: Action
    sources: tuple[str, ...]
    type: str
    shape: tuple[int, ...]
    bytes: int
    fallback_from: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class OutputFacts:
    """One output at a glance. `fallback_share` is of its parameters.

    `needs_imatrix`: llama.cpp refuses to make it without an importance matrix; None where that
    is no question. `memory_bytes`: what llama.cpp takes to run it, None for other formats.
    """

    parameters: int
    bits_per_weight: float
    fallback_tensors: int
    fallback_share: float
    needs_imatrix: bool | None
    memory_bytes: int | None


@dataclass(frozen=True)
class Plan:
    """What will be written, decided.

    `model` are the facts that recognise the checkpoint (Checkpoint.facts),
    `selection` says how `keep` came about, `files` gives the exact bytes of every weight file,
    `recipes` the facts of every format's recipe (Recipe.facts; none for safetensors).
    """

    model: Mapping[str, Any]
    selection: Mapping[str, Any]
    keep: Mapping[int, tuple[int, ...]]
    tensors: tuple[PlannedTensor, ...] = field(repr=False)
    files: Mapping[str, Mapping[str, int | None]]
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    memory: Mapping[str, Any] = field(default_factory=dict)

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats to write, in order."""
        return tuple(self.files)

    @property
    def experts(self) -> int:
        """Experts per MoE layer of the output."""
        return len(next(iter(self.keep.values())))

    def of(self, form: str) -> tuple[PlannedTensor, ...]:
        """The tensors of one format, in the order in which they are written."""
        return tuple(tensor for tensor in self.tensors if tensor.format == form)

    def tensor_bytes(self, form: str) -> int:
        """Bytes of all tensor data of a format, without headers and padding."""
        return sum(tensor.bytes for tensor in self.of(form))

    def file_bytes(self, form: str) -> int | None:
        """Bytes of all weight files of a format; None when one's size is not known."""
        sizes = [size for size in self.files[form].values() if size is not None]
        return sum(sizes) if len(sizes) == len(self.files[form]) else None

    def sizes(self, form: str) -> dict[str, int]:
        """{file: bytes} of a format that can be written. Raises PlanError when one is not known."""
        sizes = {name: size for name, size in self.files[form].items() if size is not None}
        if unknown := sorted(set(self.files[form]) - set(sizes)):
            raise PlanError(
                f"the plan does not know the size of {unknown[0]}: it was made from a config "
                "without a tokenizer, plan again with the model"
            )
        return sizes

    def output(self, form: str) -> OutputFacts:
        """What a person wants to know of a format, from its tensors."""
        tensors = self.of(form)
        parameters = sum(math.prod(tensor.shape) for tensor in tensors) or 1  # an edited plan
        fallen = [tensor for tensor in tensors if tensor.fallback_from]
        return OutputFacts(
            parameters=parameters,
            bits_per_weight=8 * self.tensor_bytes(form) / parameters,
            fallback_tensors=len(fallen),
            fallback_share=sum(math.prod(t.shape) for t in fallen) / parameters,
            needs_imatrix=self.recipes.get(form, {}).get(NEEDS_IMATRIX),
            memory_bytes=self._memory(form),
        )

    def _memory(self, form: str) -> int | None:
        """Weights, cache and logits of llama.cpp; None for what it does not load."""
        if not self.memory or self.recipes.get(form, {}).get("to") != "gguf":
            return None
        return self.tensor_bytes(form) + int(
            self.memory["kv_cache_bytes"] + self.memory["logits_bytes"]
        )

    def sha256(self) -> str:
        """Over the JSON of the plan as it is published."""
        return hashlib.sha256(to_json(published(self)).encode()).hexdigest()


def published(plan: Plan) -> Plan:
    """The plan without the path at which its model lies on this machine."""
    return replace(plan, model={k: v for k, v in plan.model.items() if k != PATH})


def to_json(plan: Plan) -> str:
    """The plan as text: one line per tensor and layer, so that two plans can be compared."""
    whole: dict[str, Any] = {
        "secateur": __version__,
        "model": dict(plan.model),
        "selection": dict(plan.selection),
        "notes": list(plan.notes),
        **_sums(plan),
        "files": {form: dict(files) for form, files in plan.files.items()},
        "formats": {form: dict(facts) for form, facts in plan.recipes.items()},
        "memory": dict(plan.memory),
    }
    head = json.dumps(whole, indent=1, ensure_ascii=False)[:-2]
    keep = ",\n".join(
        f'  "{layer}": {json.dumps(list(kept))}' for layer, kept in sorted(plan.keep.items())
    )
    rows = ",\n".join(f"  {json.dumps(_row(t), ensure_ascii=False)}" for t in plan.tensors)
    return f'{head},\n "keep": {{\n{keep}\n }},\n "tensors": [\n{rows}\n ]\n}}\n'


def from_json(text: str, where: object = "the plan") -> Plan:
    """Read a plan, hand-edited or not. Raises PlanError when it is not one."""
    try:
        data = json.loads(text)
        plan = Plan(
            model=dict(data["model"]),
            selection=dict(data["selection"]),
            keep={int(layer): tuple(map(int, kept)) for layer, kept in data["keep"].items()},
            tensors=tuple(_tensor(row) for row in data["tensors"]),
            files={form: dict(files) for form, files in data["files"].items()},
            recipes={form: dict(facts) for form, facts in data["formats"].items()},
            notes=tuple(data.get("notes", ())),
            memory=dict(data.get("memory", {})),
        )
        told = {key: data[key] for key in ("experts", "tensor_bytes", "file_bytes")}
        sums = _sums(plan)
        plan.model["source"]
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise PlanError(
            f"{where} is no plan of secateur ({error!r}): make one with `secateur plan`"
        ) from None
    for key, value in told.items():
        if value != sums[key]:
            raise PlanError(
                f"{where} says {key} {_shown(value)}, but its rows make {_shown(sums[key])}: "
                "correct it, or plan again"
            )
    return plan


def read_plan(path: Path) -> Plan:
    """Read a plan file. Raises PlanError when it is missing or no plan."""
    try:
        return from_json(path.read_text("utf-8"), path)
    except OSError as error:
        raise PlanError(f"cannot read plan {path}: {error.strerror}") from None


def compare(planned: Plan, resolved: Plan) -> None:
    """Check a plan against the one that its own decisions lead to; for hand-edited plans.

    Raises PlanError for the first tensor or file that differs, with what it has to be.
    """
    if odd := sorted({tensor.format for tensor in planned.tensors} ^ set(planned.formats)):
        raise PlanError(
            f"the plan has tensors or files of format {odd[0]!r}, but not both: plan again"
        )
    for form in sorted({*planned.formats, *resolved.formats}):
        if form not in resolved.files:
            raise PlanError(f"the plan has files for the unknown format {form!r}: remove them")
        mine = {tensor.name: tensor for tensor in planned.of(form)}
        right = {tensor.name: tensor for tensor in resolved.of(form)}
        if odd := sorted(set(mine) ^ set(right)):
            what = "names" if odd[0] in mine else "lacks"
            raise PlanError(
                f"the plan {what} tensor {odd[0]!r} in format {form} against the checkpoint "
                f"({len(odd)} such tensors): plan again"
            )
        for name, tensor in right.items():
            _compare_tensor(mine[name], tensor)
        if dict(planned.files.get(form, {})) != dict(resolved.files[form]):
            raise PlanError(
                f"the plan predicts files {dict(planned.files.get(form, {}))} for {form}, but its "
                f"tensors make {dict(resolved.files[form])}: correct the numbers under 'files'"
            )


def _compare_tensor(mine: PlannedTensor, right: PlannedTensor) -> None:
    for what in ("bytes", "shape", "sources", "action", "type"):
        got, expected = getattr(mine, what), getattr(right, what)
        if got != expected:
            raise PlanError(
                f"the plan gives tensor {mine.name!r} of {mine.format} the {what} "
                f"{_shown(got)}, expected {_shown(expected)} for type {mine.type} and the experts "
                "kept: correct it, or plan again"
            )


def _sums(plan: Plan) -> dict[str, Any]:
    """What a person wants to see first; it follows from the rest."""
    return {
        "experts": plan.experts,
        "tensor_bytes": {form: plan.tensor_bytes(form) for form in plan.formats},
        "file_bytes": {form: plan.file_bytes(form) for form in plan.formats},
        "outputs": {form: asdict(plan.output(form)) for form in plan.formats},
    }


def _shown(value: Any) -> str:
    return json.dumps(value if not isinstance(value, tuple) else list(value))


def _row(tensor: PlannedTensor) -> dict[str, Any]:
    row: dict[str, Any] = {
        "format": tensor.format,
        "name": tensor.name,
        "action": tensor.action,
        "type": tensor.type,
        "shape": list(tensor.shape),
        "bytes": tensor.bytes,
        "sources": list(tensor.sources),
    }
    if tensor.fallback_from:
        row["fallback_from"] = tensor.fallback_from
    if tensor.reason:
        row["reason"] = tensor.reason
    return row


def _tensor(row: Mapping[str, Any]) -> PlannedTensor:
    return PlannedTensor(
        format=row["format"],
        name=row["name"],
        action=row["action"],
        sources=tuple(row["sources"]),
        type=row["type"],
        shape=tuple(row["shape"]),
        bytes=row["bytes"],
        fallback_from=row.get("fallback_from"),
        reason=row.get("reason"),
    )
