"""Configs without weights, for whatever only needs names and shapes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.checkpoint.reader import Checkpoint, open_shape
from secateur.outputs.gguf.layout import GgufBase, gguf_base, lint_context
from secateur.outputs.gguf.tokenizer_keys import TokenizerKeys
from secateur.recipes.rule_lines import LintContext

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

CONFIGS: Mapping[str, Mapping[str, Any]] = {
    # google/gemma-4-26B-A4B-it, its text part: widths of 704 and 2112 divide by 32, not by 256.
    "gemma26": {
        "model_type": "gemma4_text", "dtype": "bfloat16", "vocab_size": 262144,
        "hidden_size": 2816, "intermediate_size": 2112, "num_hidden_layers": 30,
        "num_attention_heads": 16, "num_key_value_heads": 8, "num_global_key_value_heads": 2,
        "head_dim": 256, "global_head_dim": 512, "attention_k_eq_v": True,
        "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 262144,
        "num_kv_shared_layers": 0, "enable_moe_block": True, "num_experts": 128,
        "top_k_experts": 8, "moe_intermediate_size": 704, "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-6, "sliding_window": 1024, "final_logit_softcapping": 30.0,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5,
        "rope_parameters": {
            "sliding_attention": _ROPE,
            "full_attention": {
                "rope_type": "proportional", "partial_rotary_factor": 0.25,
                "rope_theta": 1000000.0,
            },
        },
        "tie_word_embeddings": True,
    },
    # Experts one by one, no dense MLP, an output head of its own.
    "qwen": {
        "model_type": "qwen3_moe", "dtype": "bfloat16", "vocab_size": 4096, "hidden_size": 512,
        "intermediate_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 64, "num_experts": 16, "num_experts_per_tok": 4,
        "moe_intermediate_size": 256, "norm_topk_prob": True, "hidden_act": "silu",
        "max_position_embeddings": 1024, "rms_norm_eps": 1e-6, "rope_parameters": _ROPE,
        "tie_word_embeddings": False, "attention_bias": False, "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
}  # fmt: skip


def save_shape(name: str, folder: Path) -> Path:
    """config.json of one of CONFIGS in a folder of its name."""
    path = folder / name
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIGS[name]))
    return path


def shape_of(name: str, folder: Path) -> Checkpoint:
    """One of CONFIGS as a checkpoint without weights."""
    return open_shape(save_shape(name, folder))


def base_of(checkpoint: Checkpoint, experts: int | None = None) -> GgufBase:
    """Its GGUF before any type is chosen, with the first `experts` experts."""
    kept = tuple(range(experts or checkpoint.experts))
    keep = dict.fromkeys(checkpoint.moe_layers, kept)
    return gguf_base(checkpoint, keep, TokenizerKeys({}, None))


def context(name: str, folder: Path, experts: int | None = None) -> LintContext:
    """What the linter judges on."""
    return lint_context(base_of(shape_of(name, folder), experts))
