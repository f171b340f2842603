"""A training forward of Gemma 4's MoE text model that is several times faster on a CPU.

It reads the parameters of the transformers module, whose own forward stays the reference (the two
agree to rounding, as tests/test_gemmule.py shows), and differs in how the work is arranged:
token-expert pairs are sorted by expert once and every expert multiplies one contiguous slice;
sliding layers attend in blocks of the window; the loss keeps neither logits nor probabilities.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Gradients = tuple[Tensor | None, ...]


def _gelu(x: Tensor) -> tuple[Tensor, Tensor]:
    """tanh-GELU and its derivative, in terms of one tanh."""
    t = torch.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))
    slope = 0.7978845608028654 * (1 + 0.134145 * x * x)
    return 0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope


@torch.compile(dynamic=False)
def activate(inner: Tensor, gates: Tensor) -> Tensor:
    """gate * GELU(a) * b for inner = (a, b); (pairs, 2f) and (pairs, 1) -> (pairs, f)."""
    a, b = inner.chunk(2, 1)
    return _gelu(a)[0] * b * gates


@torch.compile(dynamic=False)
def activate_backward(g: Tensor, inner: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `activate`: of inner (pairs, 2f) and of the gates (pairs,)."""
    a, b = inner.chunk(2, 1)
    value, slope = _gelu(a)
    spread = g * gates
    return torch.cat((spread * b * slope, spread * value), 1), (g * value * b).sum(1)


@torch.compile(dynamic=False)
def collect(rows: Tensor, slots: Tensor) -> Tensor:
    """Sum of the rows of each token's slots; (pairs, d) and (n, k) -> (n, d)."""
    return rows[slots].sum(1)


@torch.compile(dynamic=False)
def softcap_chunk(raw: Tensor, target: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """Summed loss of raw logits (n, v) and its gradient with respect to them."""
    bounded = torch.tanh(raw / cap)
    logits = bounded * cap
    norm = torch.logsumexp(logits, 1, keepdim=True)
    hit = torch.arange(raw.shape[1]).unsqueeze(0) == target.unsqueeze(1)
    total = (norm.squeeze(1) - torch.where(hit, logits, 0.0).sum(1)).sum()
    return total, (torch.exp(logits - norm) - hit.float()) * (1 - bounded * bounded)


class SortedExperts(torch.autograd.Function):
    """Gated experts over token-expert pairs sorted by expert, one matrix product a projection.

    The gate multiplies the inner activation (width 96) instead of the output (width 256): the
    result is the same, and the gradient of the gate needs no expert output to be kept.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, index: Tensor, gate: Tensor, w_in: Tensor, w_out: Tensor
    ) -> Tensor:
        """x (n, d), index and gate (n, k), w_in (e, 2f, d), w_out (e, d, f) -> (n, d)."""
        k = index.shape[1]
        flat = index.flatten()
        order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=w_in.shape[0]).tolist()
        token = order // k
        xs = x[token]
        inner = torch.empty(len(order), w_in.shape[1])
        at = 0
        for expert, count in enumerate(counts):
            torch.mm(xs[at : at + count], w_in[expert].t(), out=inner[at : at + count])
            at += count
        gates = gate.flatten()[order].unsqueeze(1)
        scaled = activate(inner, gates)
        ys = torch.empty(len(order), x.shape[1])
        at = 0
        for expert, count in enumerate(counts):
            torch.mm(scaled[at : at + count], w_out[expert].t(), out=ys[at : at + count])
            at += count
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        ctx.save_for_backward(xs, token, back, gates, inner, scaled, w_in, w_out)
        ctx.counts = counts
        return collect(ys, back.view(-1, k))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        """Gradients of x, gate and both weights."""
        xs, token, back, gates, inner, scaled, w_in, w_out = ctx.saved_tensors
        gy = grads[0][token]
        g_scaled = torch.empty_like(scaled)
        g_out, g_in = torch.zeros_like(w_out), torch.zeros_like(w_in)
        at = 0
        for expert, count in enumerate(ctx.counts):
            rows = slice(at, at + count)
            torch.mm(gy[rows], w_out[expert], out=g_scaled[rows])
            torch.mm(gy[rows].t(), scaled[rows], out=g_out[expert])
            at += count
        g_inner, g_gate = activate_backward(g_scaled, inner, gates)
        gx = torch.empty_like(xs)
        at = 0
        for expert, count in enumerate(ctx.counts):
            rows = slice(at, at + count)
            torch.mm(g_inner[rows], w_in[expert], out=gx[rows])
            torch.mm(g_inner[rows].t(), xs[rows], out=g_in[expert])
            at += count
        slots = back.view(len(grads[0]), -1)
        return collect(gx, slots), None, g_gate[slots], g_in, g_out


class SoftcapLoss(torch.autograd.Function):
    """Sum of next-token cross-entropies of soft-capped logits, in chunks of rows.

    The gradients are made on the way forward, so no chunk's logits live longer than its turn.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, cap: float) -> Tensor:
        """hidden (n, d), weight (v, d), target (n,) -> the summed loss in nats."""
        total = hidden.new_zeros(())
        g_hidden, g_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for at in range(0, len(hidden), 1024):
            h, t = hidden[at : at + 1024], target[at : at + 1024]
            nats, g = softcap_chunk(torch.mm(h, weight.t()), t, cap)
            total += nats
            g_hidden[at : at + 1024] = torch.mm(g, weight)
            g_weight.addmm_(g.t(), h)
        ctx.save_for_backward(g_hidden, g_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        """Gradients of hidden and weight."""
        g_hidden, g_weight = ctx.saved_tensors
        return g_hidden * grads[0], g_weight * grads[0], None, None


# Never compiled: the slices differ in every batch.
run_experts: Any = torch.compiler.disable(SortedExperts.apply)  # type: ignore[no-untyped-call]


def norm(x: Tensor, weight: Tensor | None) -> Tensor:
    """RMS norm over the last axis, epsilon 1e-6."""
    return F.rms_norm(x, (x.shape[-1],), weight, 1e-6)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on (batch, time, heads, dim); cos and sin are (time, 1, dim)."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def block_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention over the last `window` positions, by blocks of `window`; (b, h, t, d) each.

    Each block of queries sees its own and the previous block of keys, so the cost is linear in t.
    """
    b, h, t, d = q.shape
    n = t // window
    row = torch.arange(window).unsqueeze(1) + window
    column = torch.arange(2 * window)
    near = (column <= row) & (column > row - window)
    first = near & (column >= window)
    mask = (
        torch.cat((first.expand(1, -1, -1), near.expand(n - 1, -1, -1)))
        .unsqueeze(1)
        .repeat(b, 1, 1, 1)
    )

    def pairs(x: Tensor) -> Tensor:
        blocks = x.view(b, x.shape[1], n, window, d).transpose(1, 2)
        before = F.pad(blocks, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1]
        return torch.cat((before, blocks), 3).reshape(b * n, x.shape[1], 2 * window, d)

    blocks = q.view(b, h, n, window, d).transpose(1, 2).reshape(b * n, h, window, d)
    out = F.scaled_dot_product_attention(
        blocks, pairs(k), pairs(v), mask, scale=1.0, enable_gqa=True
    )
    return out.view(b, n, h, window, d).transpose(1, 2).reshape(b, h, t, d)


def attention(layer: nn.Module, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Self-attention of one layer; full layers use their keys as values."""
    a: Any = layer.self_attn
    b, t, _ = x.shape
    q = rotate(norm(a.q_proj(x).view(b, t, -1, a.head_dim), a.q_norm.weight), cos, sin).transpose(
        1, 2
    )
    k = a.k_proj(x).view(b, t, -1, a.head_dim)
    v = k if a.v_proj is None else a.v_proj(x).view(b, t, -1, a.head_dim)
    k = rotate(norm(k, a.k_norm.weight), cos, sin).transpose(1, 2)
    v = norm(v, None).transpose(1, 2)
    if a.is_sliding and t > a.sliding_window:
        out = block_attention(q, k, v, a.sliding_window)
    else:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=True)
    return a.o_proj(out.transpose(1, 2).reshape(b, t, -1))  # type: ignore[no-any-return]


def mixture(layer: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Routed experts on the residual stream (n, d): output, balance loss, tokens for each expert.

    The balance loss is experts * sum_e share_e * probability_e over the whole batch: it equals one
    when the load is even, and leaves single sequences free to specialise.
    """
    r = layer.router
    logits = F.linear(norm(x, None) * (r.scale * r.scalar_root_size), r.proj.weight)
    probability = torch.softmax(logits, -1)
    gate, index = torch.topk(probability, r.config.top_k_experts, -1)
    gate = gate / gate.sum(-1, keepdim=True) * r.per_expert_scale[index]
    experts = layer.experts
    inner = norm(x, layer.pre_feedforward_layernorm_2.weight)
    out: Tensor = run_experts(inner, index, gate, experts.gate_up_proj, experts.down_proj)
    load = torch.bincount(index.flatten(), minlength=logits.shape[1]).float()
    balance = (load / load.sum() * probability.mean(0)).sum() * logits.shape[1]
    return out, balance, load


def decoder_layer(
    layer: Any, x: Tensor, cos: Tensor, sin: Tensor, scalar: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One decoder layer on (b, t, d): output, balance loss, expert load."""
    h = attention(layer, norm(x, layer.input_layernorm.weight), cos, sin)
    x = x + norm(h, layer.post_attention_layernorm.weight)
    h = norm(x, layer.pre_feedforward_layernorm.weight)
    h = layer.mlp.down_proj(
        F.gelu(layer.mlp.gate_proj(h), approximate="tanh") * layer.mlp.up_proj(h)
    )
    routed, balance, load = mixture(layer, x.reshape(-1, x.shape[-1]))
    h = norm(h, layer.post_feedforward_layernorm_1.weight)
    h = h + norm(routed.view_as(h), layer.post_feedforward_layernorm_2.weight)
    return (x + norm(h, layer.post_feedforward_layernorm.weight)) * scalar, balance, load


compiled_layer = torch.compile(decoder_layer, dynamic=False)


def loss(
    model: Any, ids: Tensor, scalars: Tensor, fused: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean loss in nats, summed balance loss and load (layers, experts) of ids (b, t + 1).

    With `fused`, layers run compiled: 1.5 times as fast after a minute of compiling for each shape.
    """
    run_layer = compiled_layer if fused else decoder_layer
    body = model.model
    x = body.embed_tokens.weight[ids[:, :-1]] * math.sqrt(model.config.hidden_size)
    position = torch.arange(x.shape[1]).unsqueeze(0)
    tables = {}
    for kind in body.unique_layer_types:
        cos, sin = body.rotary_emb(x, position, kind)
        tables[kind] = cos[0].unsqueeze(1), sin[0].unsqueeze(1)
    balances, loads = [], []
    for i, layer in enumerate(body.layers):
        x, balance, load = run_layer(layer, x, *tables[model.config.layer_types[i]], scalars[i])
        balances.append(balance)
        loads.append(load)
    x = norm(x, body.norm.weight)
    target = ids[:, 1:].reshape(-1)
    total: Tensor = SoftcapLoss.apply(  # type: ignore[no-untyped-call]
        x.reshape(-1, x.shape[-1]),
        body.embed_tokens.weight,
        target,
        model.config.final_logit_softcapping,
    )
    return total / len(target), torch.stack(balances).sum(), torch.stack(loads)
