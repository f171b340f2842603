"""From an artefact's tensors to the parameters of the running transformers model.

An artefact (a checkpoint, a GGUF, an MLX folder) is a `WeightSource`: it knows its family and
config, and gives tensors by the *running* name, whatever it calls them itself. Experts that a
checkpoint keeps one by one are put together here, as their rows' `into` and axes say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from secateur.checkpoint.families import Family, Place
from secateur.checkpoint.reader import Checkpoint
from secateur.checkpoint.tensors import NamedTensor
from secateur.errors import CheckpointError

_TORCH = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}


class WeightSource(Protocol):
    """Tensors of a model by the name of the parameter they fill."""

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def family(self) -> Family: ...

    def names(self) -> Sequence[str]:
        """Running names of all tensors that the text model needs."""

    def tensor(self, name: str) -> Tensor:
        """The parameter's value, in the artefact's own float type, in memory of its own."""


class CheckpointWeights:
    """A checkpoint as a source of running weights. Peak memory of `tensor`: that tensor twice."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._parts: dict[str, list[tuple[Place, str]]] = {}
        for name, place in checkpoint.places.items():
            if place.row.axes:
                running = checkpoint.family.running_name(place)
                self._parts.setdefault(running, []).append((place, name))

    @property
    def config(self) -> Mapping[str, Any]:
        return self._checkpoint.config

    @property
    def family(self) -> Family:
        return self._checkpoint.family

    def names(self) -> Sequence[str]:
        return tuple(self._parts)

    def tensor(self, name: str) -> Tensor:
        parts = self._parts.get(name)
        if parts is None:
            raise CheckpointError(
                f"{self._checkpoint.path} has no tensor for the parameter {name!r}: "
                "the checkpoint is incomplete"
            )
        if len(parts) == 1 and parts[0][0].expert is None:
            return as_torch(self._checkpoint.read(parts[0][1]))
        return as_torch(self._assembled(name, parts))

    def _assembled(self, name: str, parts: Sequence[tuple[Place, str]]) -> NamedTensor:
        """Stack one matrix per expert (and join its halves) into the running tensor."""
        family = self._checkpoint.family
        joined = family.fused_row(str(parts[0][0].row.into)).axes
        axis = next((i for i, word in enumerate(joined) if "|" in word or "/" in word), None)
        halves = joined[axis].replace("/", "|").split("|") if axis is not None else [""]
        by_expert: dict[int, dict[str, str]] = {}
        for place, source in parts:
            half = next((word for word in place.row.axes if word in halves), "")
            by_expert.setdefault(int(place.expert or 0), {})[half] = source
        stack = None
        dtype = ""
        for expert in range(len(by_expert)):
            pieces = [self._checkpoint.read(by_expert[expert][half]) for half in halves]
            # Inside one expert the experts' axis is gone, so the halves' axis is one lower.
            matrix = np.concatenate([piece.array for piece in pieces], axis=(axis or 1) - 1)
            dtype = pieces[0].dtype
            if stack is None:
                stack = np.empty((len(by_expert), *matrix.shape), matrix.dtype)
            stack[expert] = matrix
        if stack is None:
            raise CheckpointError(f"no expert of {name!r} is in {self._checkpoint.path}")
        return NamedTensor(name, dtype, stack)


def as_torch(tensor: NamedTensor) -> Tensor:
    """The same bits as a torch tensor; no copy. Raises CheckpointError for non-float types."""
    dtype = _TORCH.get(tensor.dtype)
    if dtype is None:
        raise CheckpointError(
            f"tensor {tensor.name!r} has type {tensor.dtype}, expected one of "
            f"{', '.join(_TORCH)}: dequantize the checkpoint to 16 bits first"
        )
    array = tensor.array
    if tensor.dtype == "BF16":
        array = array.view(np.int16)
    return torch.from_numpy(array).view(dtype)
