"""What there is to do: counted from headers, rows, plans and prompts; nothing is run for it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from secateur.checkpoint.reader import Checkpoint
from secateur.outputs.registry import planned_format
from secateur.planning.document import Plan


@dataclass(frozen=True)
class LayerWork:
    """One decoder layer: multiplications and additions per token (attention over the context left
    out), elements that are widened to float32 whole, and what tells layers of one kind."""

    flops: float
    dense: int
    kind: tuple[tuple[str, tuple[int, ...]], ...] = field(repr=False)


@dataclass(frozen=True)
class Calibrating:
    """A pass over so many tokens, `sampled` of them for `rerouted` (0: it is not solved), which
    takes `solving` operations per sampled token and MoE layer. Gram matrices take `gram` operations
    per token, and `gram_bytes` in their file. It is made in so many `parts`, one after the other,
    each of which reads the model and keeps its sums until they are merged."""

    tokens: int
    sampled: int
    solving: float
    gram: float = 0.0
    gram_bytes: int = 0
    parts: int = 1

    @property
    def at_a_time(self) -> int:
        """Tokens of a part."""
        return -(-self.tokens // self.parts)


@dataclass(frozen=True)
class Writing:
    """The outputs that one writer makes: elements by the type that they are encoded in, and bytes
    that are written, and read in all passes. `feedback`: the columns of the widest Gram matrix that
    levels are chosen with; 0: they are the nearest ones."""

    name: str
    elements: Mapping[str, int]
    written: int
    read: int
    feedback: int = 0


@dataclass(frozen=True)
class Answering:
    """Prompts that the original answers, `batch` at a time on every worker."""

    prompts: int
    prompt_tokens: int
    answer_tokens: int
    batch: int


@dataclass(frozen=True)
class Scoring:
    """Tokens that a model is run over, and those whose probabilities are compared, in so many
    `parts`, each of which reads the model."""

    tokens: int
    scored: int
    parts: int = 1

    @property
    def at_a_time(self) -> int:
        """Tokens of a part."""
        return -(-self.tokens // self.parts)


@dataclass(frozen=True)
class Work:
    """All that one command will do, in order; what it will not do is None or empty.

    `unhashed` are the bytes of weights whose hash is not known; `artefacts` {name: how the names
    of its stages begin}.
    """

    unhashed: int = 0
    calibrating: Calibrating | None = None
    writing: tuple[Writing, ...] = ()
    answering: Answering | None = None
    original: Scoring | None = None
    artefacts: Mapping[str, str] = field(default_factory=dict)

    @property
    def runs_model(self) -> bool:
        """Whether the model, or an artefact, is run."""
        return self.calibrating is not None or self.original is not None


def layers_of(checkpoint: Checkpoint) -> tuple[LayerWork, ...]:
    """The work of every decoder layer, from headers."""
    flops: Counter[int] = Counter()
    dense: Counter[int] = Counter()
    kinds: dict[int, list[tuple[str, tuple[int, ...]]]] = {}
    for name, spec in checkpoint.specs.items():
        place = checkpoint.matches[name]
        if place.layer is None or not place.row.axes:
            continue
        routed = place.expert is not None or place.row.expert_axis is not None
        share = checkpoint.top_k / checkpoint.experts if routed and _is_expert(place.role) else 1.0
        if len(spec.shape) > 1:
            flops[place.layer] += int(2 * spec.elements * share)
        if not _is_expert(place.role):
            dense[place.layer] += spec.elements
        kinds.setdefault(place.layer, []).append((place.role, spec.shape))
    return tuple(
        LayerWork(float(flops[layer]), dense[layer], tuple(sorted(kinds.get(layer, []))))
        for layer in range(checkpoint.layers)
    )


def writing_of(
    plan: Plan, source_bytes: int, feedback: int = 0, parts: Collection[Collection[str]] = ()
) -> tuple[Writing, ...]:
    """What writes a plan. Outputs of one writer share a pass over the weights, which reads the
    bytes of the experts kept, unless they are in different `parts`. `feedback` as in Writing."""
    groups: dict[str, list[str]] = {}
    passes: Counter[str] = Counter()
    for part in parts or (plan.formats,):
        writers = {one: planned_format(plan, one).written_with for one in part}
        for format_id, writer in writers.items():
            groups.setdefault(writer, []).append(format_id)
        passes.update(set(writers.values()))
    kept = plan.experts / int(plan.model["experts"])
    found = []
    for writer, ids in groups.items():
        elements: Counter[str] = Counter()
        for tensor in plan.tensors:
            if tensor.format in ids and tensor.action not in ("copy", "select", "generate"):
                elements[tensor.type] += math.prod(tensor.shape)
        written = sum(size or 0 for one in ids for size in plan.files[one].values())
        read = passes[writer] * int(source_bytes * kept)
        found.append(Writing(writer, dict(elements), written, read, feedback))
    return tuple(found)


def _is_expert(role: str) -> bool:
    return role.startswith("expert.")
