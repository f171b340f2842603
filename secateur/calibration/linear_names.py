"""The linear layers whose inputs are noted, by the names of their weights in the running model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from secateur.calibration.layer_sums import ExpertNames
from secateur.calibration.solve import LoadedLayer
from secateur.families.schema import Family
from secateur.forward.skeleton import find_path, get_decoder_layers
from secateur.statistics.gram import GramKind


def name_linears(module: nn.Module, prefix: str) -> dict[nn.Module, str]:
    """{linear layer: its name} in a decoder layer whose path in the model is `prefix`."""
    return {
        child: f"{prefix}.{path}.weight"
        for path, child in module.named_modules()
        if isinstance(child, nn.Linear)
    }


def name_experts(layer: LoadedLayer) -> ExpertNames | None:
    """The names of what a layer's routed experts do; None where it has none."""
    path, experts = layer.find_experts()
    if experts is None:
        return None
    first = "gate_up_proj" if getattr(experts, "has_gate", True) else "up_proj"
    full = f"{layer.prefix}.{path}"
    return ExpertNames(f"{full}.{first}", f"{full}.down_proj")


def count_matrices(
    model: Any, family: Family, config: Mapping[str, Any], experts: int, kind: GramKind
) -> dict[str, int]:
    """{linear layer: how many Gram matrices of its input there may be} of a whole model, whose
    weights need not be there."""
    found: dict[str, int] = {}
    for number, module in enumerate(get_decoder_layers(model)):
        layer = LoadedLayer(module, find_path(model, module), number, family, config)
        found |= dict.fromkeys(name_linears(module, layer.prefix).values(), 1)
        if names := name_experts(layer):
            found[names.first] = 1
            if kind == "own":
                found[names.down] = experts
    return found
