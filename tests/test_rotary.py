"""Rotary positions in one loop: in which families, and the same bits."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.forward.rotary import fuse_rotary

NAME = "apply_rotary_pos_emb"
USUAL = {"gemma4": 1, "mixtral": 2, "qwen3_moe": 2, "deepseek_v3": 2, "gpt_oss": 0}
"""How many tensors a family's function takes; none where it computes something else."""


def attention_of(family: str) -> tuple[Any, nn.Module]:
    """(the file, a module of a class in it)"""
    file = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    part = nn.Module()
    part.__class__ = type("Attention", (nn.Module,), {"__module__": file.__name__})
    return file, nn.Sequential(part)


@pytest.fixture
def states() -> Callable[[int], Tensor]:
    """Of a head axis: 3 documents of 5 tokens, 4 heads of 16, as attention has them."""
    rows = torch.randn(3, 5, 4, 16, generator=torch.Generator().manual_seed(0))
    return lambda axis: rows.transpose(1, 2) if axis == 1 else rows


@pytest.mark.parametrize("family", USUAL)
@pytest.mark.parametrize("axis", [1, 2])
def test_the_loop_gives_a_family_the_same_bits(
    family: str, axis: int, states: Callable[[int], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, module = attention_of(family)
    own = getattr(file, NAME)
    cos, sin = torch.randn(2, 1, 5, 16, generator=torch.Generator().manual_seed(1))
    given = (states(axis),) * USUAL[family]
    with torch.inference_mode(), fuse_rotary(module):
        fused = getattr(file, NAME)
        assert (fused is own) == (USUAL[family] == 0)
        if given:
            expected, found = (one(*given, cos, sin, unsqueeze_dim=axis) for one in (own, fused))
            pairs = zip(expected, found, strict=True) if len(given) > 1 else [(expected, found)]
            for one, other in pairs:
                assert torch.equal(one, other) and one.stride() == other.stride()
    assert getattr(file, NAME) is own


def test_what_the_loop_cannot_do_is_left_to_the_family(
    states: Callable[[int], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, module = attention_of("mixtral")
    own = getattr(file, NAME)
    asked = SimpleNamespace(times=0)

    def counted(*given: Any, **named: Any) -> Any:
        asked.times += 1
        return own(*given, **named)

    monkeypatch.setattr(file, NAME, counted)
    q, table = states(1), torch.randn(1, 5, 16)
    with fuse_rotary(module):
        fused, tried = getattr(file, NAME), asked.times
        with torch.inference_mode():
            fused(q, q, table, table)
            assert asked.times == tried
            others = [
                (q.bfloat16(), table), (q, table.expand(3, 5, 16)), (q[..., ::2], table[..., ::2]),
                (q.double(), table.double()),
            ]  # fmt: skip
            for one, cos in others:
                expected = own(one, one, cos, cos)
                found = fused(one, one, cos, cos)
                assert all(map(torch.equal, expected, found))
        assert asked.times == tried + len(others)
        assert fused(q.clone().requires_grad_(), q, table, table)[0].requires_grad
