"""The backend of a device that torch knows: a CUDA GPU, Apple's MPS, or for tests the CPU.

Norms, experts and sums are torch operations there, queued without the host waiting. Products are
made in the type of the weights where that has 16 bits and what is run asks for no more; they sum in
float32, and never in reduced precision. A micro-batch is a group of its own and runs in this
thread: a device is kept busy by large operations, not by many threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.forward.backends.base import LayerCall, PlacedWeights, Session
from secateur.forward.backends.device_experts import DeviceMember, Projections, run_chosen_experts
from secateur.forward.backends.device_weights import open_on_device
from secateur.forward.backends.grouped_products import GroupedProducts
from secateur.forward.backends.host_copy import HostCopy
from secateur.forward.batches import ON_DEVICE, BatchSize, Group, MicroBatch
from secateur.forward.expert_work import ExpertObserver
from secateur.forward.experts import CURRENT_MEMBER
from secateur.forward.norms import Known, fuse_norms, rms_norm_of
from secateur.forward.weights import CheckpointWeights, WeightSource
from secateur.system.resources import free_memory

STATES_SHARE = 0.1
"""Share of a device's memory that hidden states may take."""
KEPT_SHARE = 0.6
"""Share of the free memory that weights may take which stay from pass to pass; what remains is for
a layer's micro-batches."""
_IN_FLIGHT = 3
"""Groups that the host has queued, or whose results it has not looked at."""


@dataclass(frozen=True)
class TorchDevice:
    """One device. `dtype` is that of hidden states and products (`choose.py`); `known_norms` are
    the RMSNorms that were tried out there."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    workers: int = 1
    batch_size: BatchSize = ON_DEVICE
    queued: bool = True
    logits_bytes: int = 512 << 20
    _products: GroupedProducts = field(default_factory=GroupedProducts, repr=False)
    known_norms: Known = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        if self.device.type != "cuda":
            return self.device.type
        return f"cuda: {torch.cuda.get_device_name(self.device)}"

    @property
    def states_limit(self) -> int:
        if self.device.type != "cuda":
            return 2 << 30
        return int(STATES_SHARE * torch.cuda.get_device_properties(self.device).total_memory)

    @property
    def layers_ahead(self) -> int:
        return 1

    def of_layer(self, layer: int) -> TorchDevice:
        return self

    @contextmanager
    def open(self, source: WeightSource) -> Iterator[PlacedWeights]:
        """The source's tensors on the device; the next layer's are copied while one computes."""
        with self.open_share(source, 1) as weights:
            yield weights

    @contextmanager
    def open_share(self, source: WeightSource, devices: int) -> Iterator[PlacedWeights]:
        """The same for one of so many devices that share the layers. A model that is run again and
        again stays, where its share takes at most KEPT_SHARE of the memory that was free."""
        kept: dict[str, Tensor] | None = None
        if isinstance(source, CheckpointWeights) and source.placed is not None:
            if self.device not in source.placed:
                fits = source.nbytes / devices <= KEPT_SHARE * self.free_memory()
                source.placed[self.device] = {} if fits else None
            kept = source.placed[self.device]
        with open_on_device(source, self.device, self.dtype, self.workers, kept) as weights:
            yield weights

    @contextmanager
    def adapt(self, module: nn.Module, routers: Sequence[nn.Module]) -> Iterator[None]:
        """RMSNorms as one operation each, and routers that see float32, as their weights are."""
        with fuse_norms(module, rms_norm_of, self.known_norms), ExitStack() as stack:
            for router in routers:
                stack.callback(router.register_forward_pre_hook(_widen_inputs).remove)
            yield

    @contextmanager
    def start(self, groups: Sequence[Group]) -> Iterator[Session]:
        """Products sum in float32 inside."""
        with self._exact_products():
            yield _Session(self._products)

    @contextmanager
    def run_alone(self, model: nn.Module, routers: Sequence[nn.Module]) -> Iterator[None]:
        token = CURRENT_MEMBER.set(DeviceMember(self._products))
        try:
            with self.adapt(model, routers), self._exact_products():
                yield
        finally:
            CURRENT_MEMBER.reset(token)

    def run_chosen(
        self, module: nn.Module, inputs: Tensor, experts: Tensor, down: Projections | None = None
    ) -> Tensor:
        """The outputs of experts [T, K] on inputs [T, H]; see run_chosen_experts."""
        with self._exact_products():
            return run_chosen_experts(module, inputs, experts, self._products, down)

    def free_memory(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0]
        return free_memory()

    @contextmanager
    def _exact_products(self) -> Iterator[None]:
        if self.device.type != "cuda":
            yield
            return
        matmul = torch.backends.cuda.matmul
        before = matmul.allow_tf32, matmul.allow_bf16_reduced_precision_reduction
        matmul.allow_tf32 = matmul.allow_bf16_reduced_precision_reduction = False
        try:
            with torch.cuda.device(self.device):
                yield
        finally:
            matmul.allow_tf32, matmul.allow_bf16_reduced_precision_reduction = before


def _widen_inputs(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        one.float() if isinstance(one, Tensor) and one.is_floating_point() else one for one in given
    )


@dataclass(frozen=True)
class _Session:
    products: GroupedProducts
    in_flight: int = _IN_FLIGHT
    unchecked: int = _IN_FLIGHT

    def begin(
        self, rank: int, group: Group, call: LayerCall, observer: ExpertObserver | None
    ) -> _Queued:
        """Queue the layer on every micro-batch."""
        member = DeviceMember(self.products, observer)
        token = CURRENT_MEMBER.set(member)
        outputs: list[Tensor] = []
        broken: list[HostCopy] = []
        try:
            with torch.inference_mode():
                for member.number, batch in enumerate(group):
                    output, bad = call(batch)
                    outputs.append(output)
                    broken.append(HostCopy(bad))
        finally:
            CURRENT_MEMBER.reset(token)
        return _Queued(outputs, broken)

    def map(
        self, work: Callable[[MicroBatch], Any], batches: Sequence[MicroBatch]
    ) -> Iterable[Any]:
        """One after the other: each is large."""
        return (work(batch) for batch in batches)


@dataclass(frozen=True)
class _Queued:
    """A group whose operations were given to the device."""

    _outputs: list[Tensor]
    _broken: list[HostCopy]

    def outputs(self) -> list[Tensor]:
        return self._outputs

    def broken(self) -> list[Tensor]:
        return [one.wait() for one in self._broken]

    def abort(self, error: BaseException) -> None:
        """Nothing: what is queued ends by itself."""
