"""Sketches of vectors: linear, unbiased, and the same before a down projection as after it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from secateur.calibration.sketch import CHANNELS, sketch_of
from secateur.forward.expert_products import ExpertWeights
from secateur.forward.norms import Norm


@pytest.mark.parametrize("hidden", [1, 32, CHANNELS])
def test_short_vectors_stay_as_they_are(hidden: int) -> None:
    values = torch.randn(5, hidden)
    norm = Norm(torch.rand(hidden), 1e-6)
    assert torch.equal(sketch_of(hidden, None)(values), values)
    assert torch.equal(sketch_of(hidden, Norm(torch.empty(0), 1e-6))(values)[:, hidden:], values)
    both = torch.cat([values, values * norm.weight], -1)
    assert torch.equal(sketch_of(hidden, norm)(values), both)


@pytest.mark.parametrize("hidden", [CHANNELS + 1, 200, 1024])
def test_inner_products_stay_about_the_same(hidden: int) -> None:
    generator = torch.Generator().manual_seed(1)
    norm = Norm(torch.rand(hidden, generator=generator) + 0.5, 1e-6)
    values = torch.randn(4000, hidden, generator=generator)
    sketches = sketch_of(hidden, norm)(values).view(-1, 2, CHANNELS)
    for view, exact in ((0, values), (1, values * norm.weight)):
        ratio = sketches[:, view].square().sum(-1) / exact.square().sum(-1)
        assert ratio.mean() == pytest.approx(1.0, abs=0.02)
        assert ratio.std() < 1.1 * (2 / CHANNELS) ** 0.5
        crossed = (sketches[1:, view] * sketches[:-1, view]).sum(-1)
        assert (crossed - (exact[1:] * exact[:-1]).sum(-1)).mean().abs() < 0.02 * hidden


@pytest.mark.parametrize("hidden", [8, CHANNELS, 200])
def test_a_product_with_its_matrix_is_the_sketch(hidden: int) -> None:
    sketch = sketch_of(hidden, Norm(torch.rand(hidden), 1e-6))
    values = torch.randn(3, 5, hidden)
    torch.testing.assert_close(values @ sketch.matrix(), sketch(values), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_down_projection_may_be_sketched_first(transposed: bool) -> None:
    down = torch.randn(48, 200) if transposed else torch.randn(200, 48).t()
    weights = ExpertWeights(torch.randn(8, 48), None, down, torch.randn(200))
    sketch = sketch_of(200, Norm(torch.rand(200), 1e-6))
    inner = torch.randn(7, 48)
    short = sketch.before(weights)
    assert short.down_bias is not None
    torch.testing.assert_close(
        inner @ short.down + short.down_bias,
        sketch(inner @ weights.down + weights.down_bias),
        rtol=1e-4,
        atol=1e-4,
    )
    assert sketch.before(replace(weights, down_bias=None)).down_bias is None
