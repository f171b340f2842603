"""Whether a model became a mixture: how far its experts are apart, and how its routers use them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Look:
    """What a model is at one time."""

    perplexity: dict[str, float]
    """By domain."""
    use: dict[str, list[list[float]]]
    """By domain [L, E]: each expert's share of what its layer's router chose."""
    experts_apart: dict[str, float]
    """`distances`"""


def forward(model: Any, ids: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(nats a token, each layer's router logits [N, E]) of rows int64 [n, row + 1].

    Products are bfloat16 on a GPU, float32 on a CPU: one without instructions for bfloat16 took 7
    times as long with it, and 80 times for gradients.
    """
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type != "cpu"):
        found = model.model(ids[:, :-1], use_cache=False, output_router_logits=True)
        logits = model.lm_head(found.last_hidden_state).flatten(0, 1)
    return functional.cross_entropy(logits.float(), ids[:, 1:].flatten()), found.router_logits


@torch.no_grad()
def look(model: Any, held: Mapping[str, Tensor]) -> Look:
    """Look at a model on rows of each domain, int64 [n, row + 1]."""
    found = {name: _run(model, ids.to(model.device)) for name, ids in held.items()}
    perplexity = {name: nats for name, (nats, _) in found.items()}
    return Look(perplexity, {name: use for name, (_, use) in found.items()}, distances(model))


def _run(model: Any, ids: Tensor) -> tuple[float, list[list[float]]]:
    """(perplexity, shares [L, E])"""
    experts, chosen = model.config.num_local_experts, model.config.num_experts_per_tok
    nats, router_logits = forward(model, ids)
    shares = []
    for router in router_logits:
        picked = functional.one_hot(router.float().topk(chosen, dim=-1).indices, experts)
        shares.append([round(one, 4) for one in picked.float().mean((0, 1)).tolist()])
    return round(nats.exp().item(), 3), shares


@torch.no_grad()
def distances(model: Any) -> dict[str, float]:
    """Distance of two experts of a layer over the norm of one, over layers and pairs: two that have
    nothing in common are 1.41 apart. Empty for one expert."""
    if model.config.num_local_experts < 2:
        return {}
    apart = []
    for layer in model.model.layers:
        for stack in (layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj):
            flat = stack.flatten(1).float()
            norm = flat.norm(dim=1).mean()
            pairs = combinations(flat, 2)
            apart.append(torch.stack([(one - other).norm() for one, other in pairs]) / norm)
    every = torch.stack(apart)
    return {"mean": round(every.mean().item(), 4), "least": round(every.min().item(), 4)}


@contextmanager
def routed_elsewhere(model: Any) -> Iterator[None]:
    """Every token goes to the experts that its routers like least."""
    gates = [layer.mlp.gate.weight.data for layer in model.model.layers]
    for gate in gates:
        gate.neg_()
    try:
        yield
    finally:
        for gate in gates:
            gate.neg_()


def describe_use(use: Mapping[str, list[list[float]]]) -> dict[str, Any]:
    """How differently experts are used.

    `least`: the least used expert's share of its layer's choices, all domains weighing the same,
    and its mean over layers. `domains_apart`: half the sum of the differences of two domains'
    shares, over pairs of domains and layers; 0 where all domains use the experts alike, 1 where no
    two share one. `layers`: every domain's shares in the first, the middle and the last layer.
    """
    shares: NDArray[np.float64] = np.array(list(use.values()))  # [domains, L, E]
    least = shares.mean(0).min(-1)
    pairs = combinations(shares, 2)
    apart = np.mean([np.abs(one - other).sum(-1).mean() / 2 for one, other in pairs])
    last = shares.shape[1] - 1
    return {
        "least": round(float(least.min()), 4),
        "least_mean": round(float(least.mean()), 4),
        "domains_apart": round(float(apart), 4),
        "layers": {
            str(at): {name: layers[at] for name, layers in use.items()}
            for at in sorted({0, last // 2, last})
        },
    }


def compare(
    model: Any, held: Mapping[str, Tensor], before: Look, dense: dict[str, float]
) -> dict[str, Any]:
    """What a model is now beside what it was, and beside itself with the experts that its routers
    like least: where these are worse, which expert a token goes to matters."""
    after = look(model, held)
    with routed_elsewhere(model):
        elsewhere = look(model, held).perplexity
    return {
        "perplexity": {
            "dense": dense,
            "before": before.perplexity,
            "after": after.perplexity,
            "after_by_the_least_liked_experts": elsewhere,
        },
        "experts_apart": {"before": before.experts_apart, "after": after.experts_apart},
        "use": {"before": describe_use(before.use), "after": describe_use(after.use)},
    }
