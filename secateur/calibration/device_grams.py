"""Gram matrices of experts' outputs on sampled tokens, made on the device that runs the experts.

As block_error.make_grams makes them, with the same sketches. Shapes: S tokens, R ranks,
E experts, H hidden, I width, V views of d channels (calibration.sketch).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.calibration.sketch import Sketch
from secateur.forward.backends.device_experts import Projections
from secateur.forward.backends.torch_device import TorchDevice

INPUTS_LIMIT = 512 << 20
"""Bytes of experts' inputs held at once: enough rows for each expert, and room on a small GPU."""
_TOGETHER = 16
"""Experts whose down projections are sketched at once."""


def device_grams(
    backend: TorchDevice,
    experts: nn.Module,
    sketch: Sketch,
    inputs: Tensor,
    order: Tensor,
    *,
    skip_bad: bool,
) -> Tensor:
    """float32 [V, S, R + 1, R + 1] where `order` [S, R] is, each token's experts, best first.

    The last row and column are of no expert: zero. Memory on the device: INPUTS_LIMIT a few times.
    """
    tokens, ranks = order.shape
    size = max(1, INPUTS_LIMIT // (backend.dtype.itemsize * ranks * inputs.shape[-1]))
    found = torch.zeros(sketch.views, tokens, ranks + 1, ranks + 1, device=order.device)
    with torch.inference_mode():
        matrix = sketch.matrix()
        down = _sketch_down(experts, matrix, backend.dtype)
        for start in range(0, tokens, size):
            part = slice(start, start + size)
            chosen = order[part].to(inputs.device, torch.int64)
            outputs = backend.run_chosen(experts, inputs[part].to(backend.dtype), chosen, down)
            outputs = outputs.float() if down is not None else outputs.float() @ matrix
            if skip_bad:
                outputs = outputs.masked_fill(~torch.isfinite(outputs.sum(-1, True)), 0.0)
            by_view = outputs.view(*outputs.shape[:2], sketch.views, sketch.channels)
            by_view = by_view.permute(2, 0, 1, 3).contiguous()
            found[:, part, :-1, :-1] = (by_view @ by_view.mT).to(found.device)
    return found


def _sketch_down(module: Any, matrix: Tensor, dtype: torch.dtype) -> Projections | None:
    """The experts' down projections times a sketch's matrix [H, M]; None where a norm comes after
    them."""
    if getattr(module, "has_post_expert_norm", False):
        return None
    stack = module.down_proj if module.is_transposed else module.down_proj.mT
    found = torch.empty(*stack.shape[:2], matrix.shape[1], dtype=dtype, device=stack.device)
    for first in range(0, len(stack), _TOGETHER):
        some = stack[first : first + _TOGETHER].float()
        found[first : first + _TOGETHER] = torch.bmm(some, matrix.expand(len(some), -1, -1))
    return Projections(found, module.down_proj_bias.float() @ matrix if module.has_bias else None)
