"""Several devices that share the layers of one model, one after the other.

Layer n is on device n modulo their number: each device holds as much as the others, and fills over
its own link to the host while the others compute. A pass goes layer by layer over all its text, so
one of them computes at a time: they add up their memory and their links, not their speed. What is
outside the layers (embedding, head, recorded masks) is on the first one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.forward.backends.base import PlacedWeights
from secateur.forward.backends.torch_device import TorchDevice
from secateur.forward.layer_calls import move_tensors
from secateur.forward.skeleton import get_decoder_layers
from secateur.forward.weights import Stack, WeightSource, WrappedWeights


@dataclass(frozen=True)
class SpreadDevice(TorchDevice):
    """The first device as of TorchDevice, and `others`; of one kind, so that sums are those of one
    of them."""

    others: tuple[torch.device, ...] = ()

    @property
    def name(self) -> str:
        """That of one; of all where they differ."""
        return ", ".join(dict.fromkeys(part.name for part in self._parts()))

    @property
    def layers_ahead(self) -> int:
        """One for every device."""
        return 1 + len(self.others)

    def of_layer(self, layer: int) -> TorchDevice:
        return self._part((self.device, *self.others)[layer % self.layers_ahead])

    def free_memory(self) -> int:
        """What is free on the fullest one, once for each: all get as much."""
        return self.layers_ahead * min(part.free_memory() for part in self._parts())

    @contextmanager
    def open(self, source: WeightSource) -> Iterator[SpreadWeights]:
        with ExitStack() as stack:
            parts = [
                stack.enter_context(part.open_share(source, self.layers_ahead))
                for part in self._parts()
            ]
            yield SpreadWeights(source, parts)

    @contextmanager
    def run_alone(self, model: nn.Module, routers: Sequence[nn.Module]) -> Iterator[None]:
        layers = get_decoder_layers(model)
        devices = [self.of_layer(number).device for number in range(len(layers))]
        with super().run_alone(model, routers), move_between_layers(model, devices):
            yield

    def _part(self, device: torch.device) -> TorchDevice:
        return TorchDevice(
            device,
            self.dtype,
            self.workers,
            self.batch_size,
            _products=self._products,
            known_norms=self.known_norms,
        )

    def _parts(self) -> list[TorchDevice]:
        return [self._part(device) for device in (self.device, *self.others)]


class SpreadWeights(WrappedWeights):
    """A source whose tensors are on the devices of their layers; see SpreadDevice."""

    def __init__(self, source: WeightSource, parts: Sequence[PlacedWeights]) -> None:
        self.source = source
        self._parts = parts
        self._before = source.family.fill(source.family.router.module.partition("{layer}")[0])

    def tensor(self, name: str) -> Tensor:
        return self._of(name).tensor(name)

    def experts(self, name: str) -> Stack:
        return self._of(name).experts(name)

    def prefetch(self, tensors: Sequence[str], stacks: Sequence[str]) -> None:
        """Begin to copy a layer's tensors to its device."""
        if names := (*tensors, *stacks):
            self._of(names[0]).prefetch(tensors, stacks)

    def _of(self, name: str) -> PlacedWeights:
        """Where a tensor goes: by its layer; to the first device outside of layers."""
        if not name.startswith(self._before):
            return self._parts[0]
        layer = int(name.removeprefix(self._before).partition(".")[0])
        return self._parts[layer % len(self._parts)]


@contextmanager
def move_between_layers(model: Any, devices: Sequence[torch.device]) -> Iterator[None]:
    """Inside, every decoder layer of a whole model may be on a device of its own: what it is given
    is brought there, and what the last one gives goes to the first device."""
    layers = get_decoder_layers(model)
    first = devices[0]

    def bring(device: torch.device) -> Callable[..., tuple[Any, Any]]:
        return lambda _, args, kwargs: (move_tensors(args, device), move_tensors(kwargs, device))

    def bring_back(_: nn.Module, __: Any, output: Any) -> Any:
        return move_tensors(output, first)

    with ExitStack() as stack:
        for layer, device in zip(layers, devices, strict=True):
            hook = layer.register_forward_pre_hook(bring(device), with_kwargs=True)
            stack.callback(hook.remove)
        stack.callback(layers[-1].register_forward_hook(bring_back).remove)
        yield
