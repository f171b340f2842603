"""What a model is, from its headers: shape, experts, parameters, bytes per role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from secateur.checkpoint.reader import Checkpoint

_GROUPS = (
    "expert",
    "router",
    "attention",
    "dense",
    "shared",
    "embedding",
    "head",
    "vision",
    "audio",
)


@dataclass(frozen=True)
class Part:
    """All tensors of one kind: how many, how many parameters, how many bytes."""

    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True)
class PrunedSize:
    """The model with `experts` in every layer that has some: parameters, and bytes of its tensors
    as they are now. `memory` is what these take with the cache and the logits of `context` tokens;
    None for a family whose cache is not described."""

    experts: int
    parameters: int
    bytes: int
    memory: int | None
    context: int | None


@dataclass(frozen=True)
class Inspection:
    """A checkpoint at a glance. `active` counts the parameters that a token is multiplied with;
    `sizes` what it would be with fewer experts; `notes` say what was left out, or that there are
    no weights."""

    source: str
    revision: str | None
    family: str
    layers: int
    moe_layers: int
    experts: int
    top_k: int
    parameters: int
    active: int
    bytes: int
    tensors: int
    types: Mapping[str, int]
    parts: Mapping[str, Part]
    bytes_per_expert: int
    parameters_per_expert: int
    notes: tuple[str, ...] = ()
    sizes: tuple[PrunedSize, ...] = ()

    def with_experts(self, kept: int) -> tuple[int, int]:
        """(parameters, bytes) of the tensors when `kept` experts stay in every MoE layer."""
        dropped = (self.experts - kept) * self.moe_layers
        return (
            self.parameters - dropped * self.parameters_per_expert,
            self.bytes - dropped * self.bytes_per_expert,
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def inspect_checkpoint(checkpoint: Checkpoint) -> Inspection:
    """Count a checkpoint's tensors by what they are for. Reads headers only."""
    parts: dict[str, Part] = {}
    types: dict[str, int] = {}
    routed_bytes = routed = 0
    for name, spec in checkpoint.specs.items():
        place = checkpoint.matches[name]
        group = place.role.partition(".")[0]
        group = group if group in _GROUPS else "other"
        old = parts.get(group, Part(0, 0, 0))
        parts[group] = Part(
            old.tensors + 1, old.parameters + spec.elements, old.bytes + spec.nbytes
        )
        types[spec.dtype] = types.get(spec.dtype, 0) + spec.elements
        # Whatever has an expert axis shrinks with the experts: router rows and scales too.
        if place.row.expert_axis is not None or place.expert is not None:
            routed += spec.elements
            routed_bytes += spec.nbytes
    every = checkpoint.experts * len(checkpoint.moe_layers)
    parameters = sum(part.parameters for part in parts.values())
    experts = parts["expert"].parameters
    active = parameters - experts + experts * checkpoint.top_k // checkpoint.experts
    return Inspection(
        source=checkpoint.source,
        revision=checkpoint.revision,
        family=checkpoint.family.title,
        layers=checkpoint.layers,
        moe_layers=len(checkpoint.moe_layers),
        experts=checkpoint.experts,
        top_k=checkpoint.top_k,
        parameters=parameters,
        active=active - sum(parts[p].parameters for p in ("vision", "audio") if p in parts),
        bytes=checkpoint.nbytes,
        tensors=len(checkpoint.specs),
        types=dict(sorted(types.items())),
        parts={group: parts[group] for group in (*_GROUPS, "other") if group in parts},
        bytes_per_expert=routed_bytes // every,
        parameters_per_expert=routed // every,
        notes=checkpoint.notes,
    )
