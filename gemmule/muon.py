"""Muon for stacks of matrices: momentum whose singular values are all made about one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """Approximate U V^T of every matrix in g (..., m, n) by a quintic Newton-Schulz iteration."""
    wide = g.shape[-2] <= g.shape[-1]
    x = g if wide else g.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        b = -4.7750 * a + 2.0315 * (a @ a)
        x = 3.4445 * x + b @ x
    result: Tensor = x if wide else x.mT
    return result


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; experts stacked as (e, m, n) are treated one by one.

    A group with split = 2 holds gate and up projections on top of each other: two matrices.
    The step is lr * sqrt(max(1, m / n)) in every singular direction, so lr does not depend on
    the width.
    """

    def __init__(
        self, params: Iterable[dict[str, Any]], lr: float = 0.02, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "split": 1})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter; equal shapes share one batched iteration."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for p in group["params"]:
                state = self.state[p]
                held = state.setdefault("momentum", torch.zeros_like(p))
                held.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(held, group["momentum"])
                rows = p.shape[-2] // group["split"]
                shapes.setdefault(torch.Size((rows, p.shape[-1])), []).append(
                    (p, update.view(-1, rows, p.shape[-1]))
                )
            for (m, n), pairs in shapes.items():
                done = orthogonalise(torch.cat([u for _, u in pairs]))
                scale = group["lr"] * max(1.0, m / n) ** 0.5
                for (p, _), u in zip(
                    pairs, torch.split(done, [len(u) for _, u in pairs]), strict=True
                ):
                    p.add_(u.view_as(p), alpha=-scale)
