"""What another kernel does to a model: the inputs of its matrix products are rounded.

Kernels of 16-bit floats and of quantized weights differ from float32 products in what they do to
activations first. Here products stay as they are and see inputs that were rounded alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from secateur.forward.experts import is_experts

RoundInputs = Callable[[str, Tensor], Tensor]
"""Maps the running name of a product's weights and its inputs [..., n] to rounded inputs."""


def to_bfloat16(name: str, inputs: Tensor) -> Tensor:
    """Rounded to bfloat16, as kernels of such weights see them."""
    return inputs.to(torch.bfloat16).to(inputs.dtype)


@contextmanager
def round_inputs(module: nn.Module, prefix: str, rounding: RoundInputs | None) -> Iterator[None]:
    """Inside, every product of a module with loaded weights sees rounded inputs: those of linears,
    and both of every expert. `prefix` is the module's running name; without `rounding` nothing is
    changed."""
    with ExitStack() as stack:
        for path, child in module.named_modules() if rounding is not None else ():
            name = f"{prefix}.{path}" if path else prefix
            assert rounding is not None
            if isinstance(child, nn.Linear):
                hook = _round_first(rounding, f"{name}.weight")
                stack.callback(child.register_forward_pre_hook(hook).remove)
            elif is_experts(child):
                _round_experts(child, name, rounding, stack)
        yield


def _round_experts(module: Any, name: str, rounding: RoundInputs, stack: ExitStack) -> None:
    first = "gate_up_proj" if module.has_gate else "up_proj"
    hook = _round_first(rounding, f"{name}.{first}")
    stack.callback(module.register_forward_pre_hook(hook).remove)
    gate = "_apply_gate" if module.has_gate else "act_fn"
    inner = getattr(module, gate)
    # An instance's attribute is found before its class' and its modules.
    module.__dict__[gate] = lambda projected: rounding(f"{name}.down_proj", inner(projected))
    stack.callback(module.__dict__.pop, gate)


def _round_first(rounding: RoundInputs, name: str) -> Callable[[nn.Module, Any], tuple[Any, ...]]:
    def hook(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return rounding(name, given[0]), *given[1:]

    return hook
