"""The model without its weights: transformers' own modules, parameters on meta, buffers real.

The family's own code then makes masks, rotary tables and logits; secateur only decides which
layer has its weights at a given moment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from secateur.errors import CheckpointError, FamilyError
from secateur.families.schema import Family
from secateur.forward.experts import IMPLEMENTATION, is_experts, register
from secateur.forward.weights import WeightSource

if TYPE_CHECKING:
    from secateur.forward.backends.base import Backend, PlacedWeights

_REASON = 200
"""Characters of another library's message that ours may hold."""


def build_skeleton(source: WeightSource, backend: Backend | None = None) -> Any:
    """The text model of a source as a transformers causal LM with all parameters on meta.

    Experts run through secateur's function, attention through what transformers prefers for the
    family (SDPA where it can), everything in the type and on the device of the backend (default:
    float32 on the CPU). Raises CheckpointError for a config that transformers does not accept.
    """
    if backend is None:
        return _build(source.config)
    model = _build(source.config, backend.dtype)
    _move_buffers(model, backend.device)
    for number, layer in enumerate(get_decoder_layers(model)):
        _move_buffers(layer, backend.of_layer(number).device)
    return model


def _move_buffers(model: nn.Module, device: torch.device) -> None:
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and not buffer.is_meta:
                module._buffers[name] = buffer.to(device)


def check_config(config: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless transformers can build the model of `config`. Takes a second."""
    _build(config)


def _build(config: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    import transformers
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    register()
    try:
        found = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config)).get_text_config()
        found.dtype = dtype
        with torch.device("meta"):
            model = cast(Any, AutoModelForCausalLM).from_config(found)
        model.set_experts_implementation(IMPLEMENTATION)
        for module in model.modules():
            _make_buffers_real(model, module)
    except Exception as error:  # whatever transformers and the family's code raise
        raise CheckpointError(
            f"config.json is refused by transformers {transformers.__version__} "
            f"({_reason(error)}): correct it as the model's publisher has it"
        ) from None
    return model.eval()


def _reason(error: Exception) -> str:
    """What an exception of another library says, as a part of one line.

    Of several lines the last one is the most precise; the name of the exception's class in front
    of it says nothing to a reader.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = re.sub(r"^\w+(Error|Exception): ", "", lines[-1]) if lines else ""
    if isinstance(error, KeyError):
        text = f"{text.strip(chr(39))} is missing or unknown"
    return text[:_REASON] or type(error).__name__


def _make_buffers_real(model: Any, module: nn.Module) -> None:
    """Give a module's non-persistent buffers (rotary tables, scales) their initial values."""
    temporary = [name for name in module._buffers if name in module._non_persistent_buffers_set]
    for name in temporary:
        buffer = module._buffers[name]
        if buffer is not None:
            module._buffers[name] = torch.empty_like(buffer, device="cpu")
    if temporary:
        # transformers fills exactly these when it loads a checkpoint onto meta.
        model._init_weights(module)


def get_decoder_layers(model: Any) -> nn.ModuleList:
    """The list of decoder layers of the base model."""
    return model.base_model.layers  # type: ignore[no-any-return]


@contextmanager
def fill_parameters(model: Any, names: dict[str, str], source: WeightSource) -> Iterator[None]:
    """Give parameters and persistent buffers their values inside the block.

    `names` maps a dotted path inside `model` to the source's running name. Values are taken as the
    source has them, which a backend opened. Peak memory: those tensors.
    """
    shells: list[tuple[nn.Module, str, Any]] = []
    stacks: list[tuple[nn.Module, str]] = []
    try:
        for path, running in names.items():
            owner_path, _, leaf = path.rpartition(".")
            owner = model.get_submodule(owner_path)
            table: Any = owner._parameters if leaf in owner._parameters else owner._buffers
            shell = table[leaf]
            value = source.experts(running) if is_experts(owner) else source.tensor(running)
            if tuple(shell.shape) != tuple(value.shape):
                raise FamilyError(
                    f"tensor {running!r} has shape {list(value.shape)}, but the model that "
                    f"config.json describes expects {list(shell.shape)}: config and weights do not "
                    "belong together"
                )
            if not isinstance(value, Tensor):
                # An instance's attribute is found before its parameters.
                owner.__dict__[leaf] = value
                stacks.append((owner, leaf))
                continue
            is_parameter = isinstance(shell, nn.Parameter)
            table[leaf] = nn.Parameter(value, requires_grad=False) if is_parameter else value
            shells.append((owner, leaf, shell))
        yield
    finally:
        for owner, leaf in stacks:
            del owner.__dict__[leaf]
        for owner, leaf, shell in shells:
            table = owner._parameters if leaf in owner._parameters else owner._buffers
            table[leaf] = shell


@contextmanager
def load_decoder_layer(
    model: Any, layer: int, weights: PlacedWeights, backend: Backend
) -> Iterator[nn.Module]:
    """A decoder layer of the skeleton with its weights, ready to run; those of the layers after it
    are asked for."""
    layers = get_decoder_layers(model)
    module = layers[layer]
    with fill_parameters(module, name_layer_tensors(model, layer), weights):
        for coming in range(layer + 1, min(layer + 1 + backend.layers_ahead, len(layers))):
            weights.prefetch(*_split_names(layers[coming], name_layer_tensors(model, coming)))
        with backend.of_layer(layer).adapt(module, find_routers(model, weights.family, [layer])):
            yield module


def find_routers(model: Any, family: Family, layers: Iterable[int]) -> list[nn.Module]:
    """The routers of some decoder layers; dense ones have none."""
    modules = dict(model.named_modules())
    names = [family.fill(family.router.module, layer) for layer in layers]
    return [modules[name] for name in names if name in modules]


def _split_names(module: nn.Module, names: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The running names of a module's parameters, and of its stacks of experts."""
    parts: tuple[list[str], list[str]] = [], []
    for path, running in names.items():
        parts[is_experts(module.get_submodule(path.rpartition(".")[0]))].append(running)
    return parts


def name_layer_tensors(model: Any, layer: int) -> dict[str, str]:
    """{path inside the decoder layer: running name} of all that the layer loads."""
    module = get_decoder_layers(model)[layer]
    prefix = find_path(model, module)
    return {path: f"{prefix}.{path}" for path in module.state_dict()}


def find_path(model: Any, module: nn.Module) -> str:
    """The dotted name of a module inside the model."""
    return str(next(name for name, candidate in model.named_modules() if candidate is module))
