"""RMSNorms in one pass: which modules are taken for one, and what they give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import FORMS
from torch import Tensor, nn

from secateur.checkpoint.reader import Checkpoint
from secateur.forward.backends.cpu import WidenedWeights
from secateur.forward.norms import detect_norm, fuse_norms
from secateur.forward.skeleton import (
    build_skeleton,
    fill_parameters,
    get_decoder_layers,
    name_layer_tensors,
)
from secateur.forward.weights import CheckpointWeights

TINY = Callable[[str], Checkpoint]


class PlusOne(nn.Module):
    """What Gemma 2 computes: x / rms(x) * (1 + weight)."""

    def __init__(self) -> None:
        super().__init__()
        self.eps = 1e-6
        self.weight = nn.Parameter(torch.randn(32))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt() * (1.0 + self.weight)


class Gated(PlusOne):
    """Needs more than the hidden states."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) * gate


class EpsOutside(PlusOne):
    """x / (rms(x) + eps): the same but for small numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True).sqrt() + self.eps) * self.weight


class Plain(PlusOne):
    """An RMSNorm; it takes something more if it is given."""

    def forward(self, x: Tensor, added: Any = None) -> Tensor:
        normal = x * (x.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight
        return normal if added is None else normal + added


@pytest.mark.parametrize("other", [PlusOne, Gated, EpsOutside, lambda: nn.LayerNorm(32)])
def test_what_computes_another_thing_is_left_alone(other: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module = other()
    assert detect_norm(module) is None
    with fuse_norms(module):
        assert "forward" not in module.__dict__


def test_torchs_own_is_recognised() -> None:
    module = nn.RMSNorm(32, eps=1e-5)
    nn.init.normal_(module.weight)
    values = torch.randn(3, 5, 32)
    norm = detect_norm(module)
    assert norm is not None
    assert norm.eps == 1e-5
    torch.testing.assert_close(norm(values), module(values), rtol=1e-6, atol=1e-7)


def test_what_is_called_with_more_runs_by_itself() -> None:
    module = Plain()
    values = torch.randn(2, 32)
    expected = module(values), module(values, 1.0), module(values.double())
    with fuse_norms(module):
        assert "forward" in module.__dict__
        torch.testing.assert_close(module(values), expected[0])
        assert torch.equal(module(values, 1.0), expected[1])
        assert torch.equal(module(values.double()), expected[2])
    assert "forward" not in module.__dict__
    assert torch.equal(module(values), expected[0])


@pytest.mark.parametrize("form", FORMS)
def test_every_familys_norms_are_taken_and_agree(form: str, tiny: TINY) -> None:
    """All modules that transformers calls an RMSNorm, in every decoder layer of every family."""
    checkpoint = tiny(form)
    source = WidenedWeights(CheckpointWeights(checkpoint))
    model = build_skeleton(source)
    for layer in range(checkpoint.layers):
        module = get_decoder_layers(model)[layer]
        with (
            fill_parameters(module, name_layer_tensors(model, layer), source),
            torch.inference_mode(),
        ):
            norms = [part for part in module.modules() if type(part).__name__.endswith("RMSNorm")]
            assert norms
            for part in norms:
                weight = getattr(part, "weight", None)
                width = 24 if weight is None else len(weight)
                values = 3.0 * torch.randn(2, 7, width)
                expected = part(values)
                with fuse_norms(module):
                    assert "forward" in part.__dict__
                    torch.testing.assert_close(part(values), expected, rtol=2e-6, atol=1e-6)
                    # A view that does not lie in one piece, as heads of a transposed tensor.
                    turned = values.transpose(0, 1)
                    torch.testing.assert_close(
                        part(turned), expected.transpose(0, 1), rtol=2e-6, atol=1e-6
                    )
