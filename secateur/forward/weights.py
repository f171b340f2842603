"""From an artefact's tensors to the parameters of the running transformers model.

An artefact (a checkpoint, a GGUF, an MLX folder) is a `WeightSource`: it knows its family and
config, and gives tensors by the *running* name, whatever it calls them itself. Experts that a
checkpoint keeps one by one are put together here, as their rows' `into` and axes say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from secateur.checkpoint.reader import Checkpoint, read_tensor
from secateur.checkpoint.tensors import NamedTensor
from secateur.errors import CheckpointError
from secateur.families.schema import Family, TensorMatch

_TORCH = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}


EAGER_STACK_BYTES = 384 << 20
"""Bytes of a stack of experts up to which it is read whole: mapping each matrix of its own takes
time too, which shows where matrices are small. Both stacks of a 26B model's layer are larger."""


class Stack(Protocol):
    """The matrices of a layer's experts; `stack[e]` may read that expert's only when asked."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __getitem__(self, expert: int, /) -> Tensor: ...


class WeightSource(Protocol):
    """Tensors of a model by the name of the parameter they fill."""

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def family(self) -> Family: ...

    def names(self) -> Sequence[str]:
        """Running names of all tensors that the text model needs."""

    def tensor(self, name: str) -> Tensor:
        """The parameter's value, in the artefact's own float type."""

    def experts(self, name: str) -> Stack:
        """The same for a parameter whose first axis is the experts."""


class WrappedWeights:
    """What a source that changes values alone takes from the `source` that it wraps."""

    source: WeightSource

    @property
    def config(self) -> Mapping[str, Any]:
        return self.source.config

    @property
    def family(self) -> Family:
        return self.source.family

    def names(self) -> Sequence[str]:
        return self.source.names()


@dataclass(frozen=True)
class StackOnDisk:
    """A stack whose matrices are read, or mapped, each time they are asked for."""

    shape: tuple[int, ...]
    read: Callable[[int], Tensor]

    def __getitem__(self, expert: int, /) -> Tensor:
        return self.read(expert)


def open_stack(
    shape: tuple[int, ...],
    nbytes: int,
    whole: Callable[[], Tensor],
    read: Callable[[int], Tensor],
) -> Stack:
    """A stack of `nbytes` as it is held: whole up to EAGER_STACK_BYTES, else read by the matrix."""
    return whole() if nbytes <= EAGER_STACK_BYTES else StackOnDisk(shape, read)


class CheckpointWeights:
    """A checkpoint as a source of running weights. Peak memory of `tensor`: that tensor twice; of
    a stack of experts: EAGER_STACK_BYTES, or one matrix twice."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._parts: dict[str, list[tuple[TensorMatch, str]]] = {}
        for name, place in checkpoint.matches.items():
            if place.row.axes:
                running = checkpoint.family.running_name(place)
                self._parts.setdefault(running, []).append((place, name))

    @property
    def config(self) -> Mapping[str, Any]:
        return self._checkpoint.config

    @property
    def family(self) -> Family:
        return self._checkpoint.family

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return self._checkpoint.nbytes

    @property
    def placed(self) -> dict[Any, Any] | None:
        """{device: its tensors by name, None where it has no room} (Checkpoint.placed)."""
        return self._checkpoint.placed

    def names(self) -> Sequence[str]:
        return tuple(self._parts)

    def tensor(self, name: str) -> Tensor:
        parts = self._parts_of(name)
        if len(parts) == 1 and parts[0][0].expert is None:
            return as_torch(self._checkpoint.read(parts[0][1]))
        return torch.stack([self._matrix(parts, expert) for expert in _number_experts(parts)])

    def experts(self, name: str) -> Stack:
        parts = self._parts_of(name)
        self._checkpoint.need_weights(f"reading tensor {name!r}")
        nbytes = sum(self._checkpoint.specs[source].nbytes for _, source in parts)
        place, source = parts[0]
        if place.expert is not None:
            shape = (len(_number_experts(parts)), *self._matrix(parts, 0).shape)
            return open_stack(
                shape,
                nbytes,
                lambda: self.tensor(name),
                lambda expert: self._matrix(parts, expert),
            )
        spec = self._checkpoint.specs[source]
        return open_stack(
            spec.shape,
            nbytes,
            lambda: self.tensor(name),
            lambda expert: as_torch(read_tensor(spec[expert])),
        )

    def _parts_of(self, name: str) -> Sequence[tuple[TensorMatch, str]]:
        parts = self._parts.get(name)
        if parts is None:
            raise CheckpointError(
                f"{self._checkpoint.path} has no tensor for the parameter {name!r}: "
                "the checkpoint is incomplete"
            )
        return parts

    def _matrix(self, parts: Sequence[tuple[TensorMatch, str]], expert: int) -> Tensor:
        """One expert's matrix in the running form: its halves joined, where it has two."""
        joined = self._checkpoint.family.fused_row(str(parts[0][0].row.into)).axes
        axis = next((i for i, word in enumerate(joined) if "|" in word or "/" in word), None)
        halves = joined[axis].replace("/", "|").split("|") if axis is not None else [""]
        mine = {
            next((word for word in place.row.axes if word in halves), ""): source
            for place, source in parts
            if place.expert == expert
        }
        pieces = [as_torch(self._checkpoint.read(mine[half])) for half in halves]
        # Inside one expert the experts' axis is gone, so the halves' axis is one lower.
        return torch.cat(pieces, (axis or 1) - 1) if len(pieces) > 1 else pieces[0]


def _number_experts(parts: Sequence[tuple[TensorMatch, str]]) -> range:
    """The numbers of the experts that a parameter consists of."""
    return range(len({place.expert for place, _ in parts}))


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
