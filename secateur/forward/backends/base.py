"""What a backend is: a place to compute, and how a group of micro-batches is run there.

The streamed pass (forward.stream) is the same for all backends. A backend says where tensors lie
and in what type products are made, opens a source of weights accordingly, and runs a layer on the
micro-batches of a group. A user chooses one by name (`choose.py`); it may serve any number of
passes, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from secateur.forward.batches import BatchSize, Group, MicroBatch
from secateur.forward.expert_work import ExpertObserver
from secateur.forward.weights import WeightSource

LayerCall = Callable[[MicroBatch], tuple[Tensor, Tensor]]
"""Runs a loaded layer on a micro-batch: (its output [B, L, H], which tokens are broken [B, L])."""


class GroupWork(Protocol):
    """A group on its way through a layer."""

    def outputs(self) -> Sequence[Tensor]:
        """The layer's output for every micro-batch; waits until it, and what the observer noted,
        may be used."""

    def broken(self) -> Sequence[Tensor]:
        """Which tokens became NaN or infinite, bool [B, L] in host memory; waits for the device."""

    def abort(self, error: BaseException) -> None:
        """End the work, because of an error elsewhere."""


class Session(Protocol):
    """A backend while a pass runs."""

    @property
    def in_flight(self) -> int:
        """Groups begun at a time, so that there is work while one is waited for."""

    @property
    def unchecked(self) -> int:
        """For how many groups `broken` should not be asked yet, as that would hold up others."""

    def begin(
        self, rank: int, group: Group, call: LayerCall, observer: ExpertObserver | None
    ) -> GroupWork:
        """Start a group; those of lower `rank` go first."""

    def map(
        self, work: Callable[[MicroBatch], Any], batches: Sequence[MicroBatch]
    ) -> Iterable[Any]:
        """`work` of every micro-batch, in order."""


class PlacedWeights(WeightSource, Protocol):
    """A source whose tensors are where, and of the type, that a backend computes with."""

    def prefetch(self, tensors: Sequence[str], stacks: Sequence[str]) -> None:
        """Begin to read what `tensor` and `experts` will be asked for next, by running names."""


class Backend(Protocol):
    """A place to compute."""

    @property
    def name(self) -> str:
        """What is noted in files that it makes, such as "cpu" or "cuda: NVIDIA H100 80GB HBM3"."""

    @property
    def device(self) -> torch.device:
        """Where weights and running hidden states lie, but for layers that are elsewhere."""

    @property
    def dtype(self) -> torch.dtype:
        """Of hidden states and products; sums inside a product are float32."""

    @property
    def workers(self) -> int:
        """Cores that may be kept busy."""

    @property
    def queued(self) -> bool:
        """True when operations are given to a device, which does them later: then sums are kept
        there too, and the host should not ask for results that it can do without."""

    @property
    def batch_size(self) -> BatchSize: ...

    @property
    def states_limit(self) -> int:
        """Bytes of hidden states that may be kept on the device."""

    @property
    def logits_bytes(self) -> int:
        """Bytes of float32 logits that one call of `Session.map` makes at once."""

    @property
    def layers_ahead(self) -> int:
        """Layers whose weights are read while one computes."""

    def of_layer(self, layer: int) -> Backend:
        """Where a layer runs: this backend, unless it is several devices."""

    def open(self, source: WeightSource) -> AbstractContextManager[PlacedWeights]:
        """The source, placed for this backend."""

    def adapt(
        self, module: nn.Module, routers: Sequence[nn.Module]
    ) -> AbstractContextManager[None]:
        """Let a module with loaded weights compute as the backend has it; `routers` are those in
        it."""

    def start(self, groups: Sequence[Group]) -> AbstractContextManager[Session]:
        """Get ready for a pass of these groups."""

    def run_alone(
        self, model: nn.Module, routers: Sequence[nn.Module]
    ) -> AbstractContextManager[None]:
        """Inside, the whole model with its weights may be called: on a device by this thread."""

    def free_memory(self) -> int:
        """Bytes that may still be taken on the device."""
