"""gemmule's shape and its initial weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Gemma4ForCausalLM, Gemma4TextConfig

SHAPE: dict[str, Any] = {
    "vocab_size": 4096,
    "vocab_size_per_layer_input": 4096,
    "hidden_size": 256,
    "hidden_size_per_layer_input": 0,
    "intermediate_size": 288,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_global_key_value_heads": 2,
    "head_dim": 32,
    "global_head_dim": 64,
    "attention_k_eq_v": True,
    "num_kv_shared_layers": 0,
    "enable_moe_block": True,
    "num_experts": 32,
    "top_k_experts": 4,
    "moe_intermediate_size": 96,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-06,
    "sliding_window": 128,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {
            "rope_type": "proportional",
            "partial_rotary_factor": 0.25,
            "rope_theta": 1000000.0,
        },
    },
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
}


def build(seed: int) -> Gemma4ForCausalLM:
    """A fresh model in float32.

    Attention has no 1/sqrt(d), so query norms start there; post-norms start below one to keep the
    residual stream calm; `per_expert_scale` starts spread out, for it would else stay near one.
    """
    torch.manual_seed(seed)
    model: Any = Gemma4ForCausalLM(Gemma4TextConfig(**SHAPE))
    model.float()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_norm.weight.fill_(1.4 * layer.self_attn.head_dim**-0.5)
            layer.post_attention_layernorm.weight.fill_(0.4)
            layer.post_feedforward_layernorm.weight.fill_(0.4)
            layer.router.proj.weight.normal_(0, 0.5)
            layer.router.per_expert_scale.copy_(torch.randn(SHAPE["num_experts"]).mul(0.2).exp())
    assert isinstance(model, Gemma4ForCausalLM)
    return model
