"""Solving `rerouted` for a layer whose weights are loaded, and for a whole sample file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from secateur.calibration.block_error import read_norm
from secateur.calibration.removal_search import LayerSample, prepare_search
from secateur.calibration.routing import Routing, routing_of
from secateur.calibration.token_sample import to_layer_sample
from secateur.checkpoint.reader import Checkpoint
from secateur.families.schema import Family
from secateur.forward.backends.base import Backend
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.backends.torch_device import TorchDevice
from secateur.forward.experts import is_experts
from secateur.forward.skeleton import build_skeleton, find_path, load_decoder_layer
from secateur.forward.weights import CheckpointWeights
from secateur.statistics.sample_file import SampleFile
from secateur.statistics.statistics import Statistics, array_name
from secateur.statistics.sums import Array
from secateur.system.progress import Progress, no_progress
from secateur.system.resources import cores


@dataclass(frozen=True)
class LoadedLayer:
    """A decoder layer with its weights; `prefix` is its path in the model."""

    module: nn.Module
    prefix: str
    number: int
    family: Family
    config: Mapping[str, Any]

    def find_experts(self) -> tuple[str, nn.Module | None]:
        """(path, module) of the routed experts; ("", None) when the layer is dense."""
        for path, child in self.module.named_modules():
            if is_experts(child):
                return path, child
        return "", None

    def find_post_norm(self) -> nn.Module | None:
        """The norm behind the experts, where the family has one."""
        template = self.family.post_norm
        return self.module.get_submodule(self._inside(template)) if template else None

    def find_routing(self) -> Routing:
        """How the layer's router chooses, with its own vectors."""
        bias, scale = (self._vector(f"router.{n}") for n in ("correction_bias", "expert_scale"))
        return routing_of(self.family, self.config, bias, scale)

    def _inside(self, template: str) -> str:
        return self.family.fill(template, self.number).removeprefix(self.prefix + ".")

    def _vector(self, role: str) -> Tensor | None:
        row = next((row for row in self.family.rows if row.role == role), None)
        if row is None:
            return None
        value: Tensor = self.module.state_dict()[self._inside(row.name)]
        return (value.cpu() if value.device.type == "mps" else value).double()  # mps has none


def solve_loaded(
    layer: LoadedLayer, sample: LayerSample, categories: int, backend: Backend, *, skip_bad: bool
) -> Callable[[], dict[str, Array]]:
    """What gives the order of removal of one layer, for both objectives, under the names of the
    statistics; it needs the layer's weights no more, and may be called in any thread.

    Nothing where no sampled token came through the layer.
    """
    experts = layer.find_experts()[1]
    if experts is None or not len(sample.weights):
        return dict
    device = backend if isinstance(backend, TorchDevice) else None
    search = prepare_search(
        experts,
        read_norm(layer.find_post_norm(), None if device is None else device.known_norms),
        layer.find_routing(),
        sample,
        categories=categories,
        workers=backend.workers,
        skip_bad=skip_bad,
        device=device,
    )

    def solve() -> dict[str, Array]:
        return {
            array_name(layer.number, f"rerouted.{objective}.{what}"): getattr(removal, what)
            for objective, removal in search().solve(backend.workers).items()
            for what in ("errors", "errors_by_category", "scores")
        }

    return solve


def solve_sample(
    checkpoint: Checkpoint,
    statistics: Statistics,
    sample: SampleFile,
    *,
    backend: Backend | None = None,
    progress: Progress = no_progress,
) -> Statistics:
    """The statistics with `rerouted` solved from their token sample, on a backend (default: all
    cores of the CPU).

    The same bytes as a pass over the whole corpus gives on a backend of that kind. Reads every MoE
    layer's weights once. Peak memory: one layer of the sample, and that of block_error.
    """
    backend = backend or CpuBackend(cores())
    source = CheckpointWeights(checkpoint)
    model = build_skeleton(source, backend)
    arrays = dict(statistics.arrays)
    layers = sample.description.layers
    progress("solve", 0, len(layers), "layers")
    with backend.open(source) as weights:
        for done, number in enumerate(layers, start=1):
            place = backend.of_layer(number)
            tokens = to_layer_sample(sample.layer(number), sample.keys, place.device)
            with load_decoder_layer(model, number, weights, backend) as module:
                layer = LoadedLayer(
                    module, find_path(model, module), number, source.family, source.config
                )
                arrays |= solve_loaded(
                    layer,
                    tokens,
                    len(statistics.categories),
                    place,
                    skip_bad=sample.description.skip_bad,
                )()
            progress("solve", done, len(layers), "layers")
    return replace(statistics, arrays={name: arrays[name] for name in sorted(arrays)})
