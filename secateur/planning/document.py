"""The plan: for every output tensor its sources, what happens to it, its type and exact bytes.

A plan holds no globs, defaults or "auto": it is what a person reviews (and may edit) before a
single weight is read, and all that `apply` obeys. Edit what is kept (`keep`) and a tensor's `type`;
numbers that follow from them are computed again, `decided` stays as it is, and the manifest and
the report say that the plan was edited.

A format is `safetensors`, or what it is for and the name of its recipe, as in `gguf-Q4_K_M`,
`gguf-apex-mini`, `mlx-mixed-4-8` or `mmproj-F16`, the GGUF of a vision tower. A plan made from a
config without a tokenizer knows every tensor of a GGUF to the byte, but not the file: its size is
null. A dotted key is a key within a key, and `*` stands for a name that depends on the model.
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
from secateur.system.text_files import explain, parse_json, read_text

Action = Literal[
    "copy", "select", "convert", "select+convert", "pad+convert", "select+pad+convert", "generate"
]
"""copy: the bytes as they are. select: only the kept experts' bytes. pad: zeros up to the planned
shape. convert: numbers into the planned type. generate: made from the config (rotary factors)."""

IMATRIX = "imatrix"
"""In a plan's `selection`: the facts of the importance matrix it quantizes with, or None."""

IMATRIX_FROM = "imatrix_from"
"""In a plan's `selection`: what that matrix is made of, and how it treats experts without data."""

NEEDS_IMATRIX = "needs_imatrix"
"""In a plan's `formats`: whether llama.cpp refuses to make it without an importance matrix."""

CONTEXT_IN_MEMORY = "context"
"""In a plan's `memory`: the tokens of context that it is counted for."""

FORMATS_IN_MEMORY = "formats"
"""In a plan's `memory`: the format ids that it is counted for."""

DECIDED = ("selection", "keep", "types", "words")
"""The keys of a plan's `decided`."""

PATH = "path"
"""In a plan's `model`: the folder as the user named it, so that `apply` finds it again."""

STATISTICS_PATH = "statistics_path"
"""In a plan's `model`: the file of its statistics, so that `apply` keeps them with the output."""

LOCAL = (PATH, STATISTICS_PATH)
"""Keys of a plan's `model` that hold for this machine alone."""


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
    `recipes` the facts of every output's recipe (Recipe.facts; none where a format needs none),
    `decided` digests of the decisions as they were made (edits.py).
    """

    model: Mapping[str, Any]
    selection: Mapping[str, Any]
    keep: Mapping[int, tuple[int, ...]]
    tensors: tuple[PlannedTensor, ...] = field(repr=False)
    files: Mapping[str, Mapping[str, int | None]]
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    memory: Mapping[str, Any] = field(default_factory=dict)
    decided: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats to write, in order."""
        return tuple(self.files)

    @property
    def experts(self) -> int:
        """Experts per MoE layer of the output."""
        return len(next(iter(self.keep.values())))

    def of(self, format_id: str) -> tuple[PlannedTensor, ...]:
        """The tensors of one format, in the order in which they are written."""
        return tuple(tensor for tensor in self.tensors if tensor.format == format_id)

    def tensor_bytes(self, format_id: str) -> int:
        """Bytes of all tensor data of a format, without headers and padding."""
        return sum(tensor.bytes for tensor in self.of(format_id))

    def file_bytes(self, format_id: str) -> int | None:
        """Bytes of all weight files of a format; None when one's size is not known."""
        sizes = [size for size in self.files[format_id].values() if size is not None]
        return sum(sizes) if len(sizes) == len(self.files[format_id]) else None

    def sizes(self, format_id: str) -> dict[str, int]:
        """{file: bytes} of a format that can be written. Raises PlanError when one is not known."""
        sizes = {name: size for name, size in self.files[format_id].items() if size is not None}
        if unknown := sorted(set(self.files[format_id]) - set(sizes)):
            raise PlanError(
                f"the plan does not know the size of {unknown[0]}: it was made from a config "
                "without a tokenizer, plan again with the model"
            )
        return sizes

    def output(self, format_id: str) -> OutputFacts:
        """What a person wants to know of a format, from its tensors."""
        tensors = self.of(format_id)
        parameters = sum(math.prod(tensor.shape) for tensor in tensors) or 1  # an edited plan
        fallen = [tensor for tensor in tensors if tensor.fallback_from]
        return OutputFacts(
            parameters=parameters,
            bits_per_weight=8 * self.tensor_bytes(format_id) / parameters,
            fallback_tensors=len(fallen),
            fallback_share=sum(math.prod(t.shape) for t in fallen) / parameters,
            needs_imatrix=self.recipes.get(format_id, {}).get(NEEDS_IMATRIX),
            memory_bytes=self._memory(format_id),
        )

    def _memory(self, format_id: str) -> int | None:
        """Weights, cache and logits of llama.cpp; None for what it does not load."""
        if format_id not in self.memory.get(FORMATS_IN_MEMORY, ()):
            return None
        return self.tensor_bytes(format_id) + int(
            self.memory["kv_cache_bytes"] + self.memory["logits_bytes"]
        )

    def sha256(self) -> str:
        """Over the JSON of the plan as it is published."""
        return hashlib.sha256(to_json(published(self)).encode()).hexdigest()


def published(plan: Plan) -> Plan:
    """The plan without the paths at which its model and statistics lie on this machine."""
    return replace(plan, model={k: v for k, v in plan.model.items() if k not in LOCAL})


def to_json(plan: Plan) -> str:
    """The plan as text: one line per tensor and layer, so that two plans can be compared."""
    whole: dict[str, Any] = {
        "secateur": __version__,
        "model": dict(plan.model),
        "selection": dict(plan.selection),
        "notes": list(plan.notes),
        **_sums(plan),
        "files": {name: dict(files) for name, files in plan.files.items()},
        "formats": {name: dict(facts) for name, facts in plan.recipes.items()},
        "memory": dict(plan.memory),
        "decided": dict(plan.decided),
    }
    head = json.dumps(whole, indent=1, ensure_ascii=False)[:-2]
    keep = ",\n".join(
        f'  "{layer}": {json.dumps(list(kept))}' for layer, kept in sorted(plan.keep.items())
    )
    rows = ",\n".join(f"  {json.dumps(_row(t), ensure_ascii=False)}" for t in plan.tensors)
    return f'{head},\n "keep": {{\n{keep}\n }},\n "tensors": [\n{rows}\n ]\n}}\n'


_EXPECTED = "a plan, made by `secateur plan`"


def from_json(text: str, where: object = "the plan") -> Plan:
    """Read a plan, hand-edited or not. Raises PlanError when it is not one."""
    try:
        data = parse_json(text, str(where), _EXPECTED, PlanError)
        plan = Plan(
            model=dict(data["model"]),
            selection=dict(data["selection"]),
            keep={int(layer): tuple(map(int, kept)) for layer, kept in data["keep"].items()},
            tensors=tuple(_tensor(row) for row in data["tensors"]),
            files={name: dict(files) for name, files in data["files"].items()},
            recipes={name: dict(facts) for name, facts in data["formats"].items()},
            notes=tuple(data.get("notes", ())),
            memory=dict(data.get("memory", {})),
            decided={key: _decided(data["decided"], key) for key in DECIDED},
        )
        plan.model["source"]
        _sums(plan)
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        StopIteration,
    ) as error:
        raise PlanError(
            f"{where} is no plan of secateur ({explain(error)}): make one with `secateur plan`"
        ) from None
    return plan


def read_plan(path: Path) -> Plan:
    """Read a plan file. Raises PlanError when it is missing or no plan."""
    return from_json(read_text(path, _EXPECTED, PlanError), path)


def _sums(plan: Plan) -> dict[str, Any]:
    """What a person wants to see first; it follows from the rest."""
    return {
        "experts": plan.experts,
        "tensor_bytes": {name: plan.tensor_bytes(name) for name in plan.formats},
        "file_bytes": {name: plan.file_bytes(name) for name in plan.formats},
        "outputs": {name: asdict(plan.output(name)) for name in plan.formats},
    }


def _decided(data: Mapping[str, Any], key: str) -> Any:
    """A digest, or {what: digest}."""
    found = data[key]
    return {w: str(d) for w, d in found.items()} if isinstance(found, dict) else str(found)


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
