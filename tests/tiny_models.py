"""Tiny random checkpoints of every family, saved by transformers itself, and their logits.

Everything is random: parameters, norms, scales, biases and persistent buffers. At their initial
ones and zeros a forgotten tensor would not show.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from secateur.families.registry import families

# Products this small are a hundred times slower when threads wait for each other on busy cores.
torch.set_num_threads(1)

VOCAB = 64
EXPERTS = 8
GROUPS = 2
TOP_K = 2
HIDDEN = 32

_GEMMA4_TEXT = {
    "vocab_size": VOCAB,
    "vocab_size_per_layer_input": VOCAB,
    "hidden_size": HIDDEN,
    "hidden_size_per_layer_input": 0,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 1,
    "head_dim": 16,
    "global_head_dim": 32,
    "attention_k_eq_v": True,
    "num_kv_shared_layers": 0,
    "enable_moe_block": True,
    "num_experts": EXPERTS,
    "top_k_experts": TOP_K,
    "moe_intermediate_size": 16,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "max_position_embeddings": 64,
    "sliding_window": 4,
    "final_logit_softcapping": 30.0,
}
_DECODER = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_experts_per_tok": TOP_K,
    "max_position_embeddings": 64,
}


def _gemma4() -> transformers.PreTrainedModel:
    return transformers.Gemma4ForCausalLM(transformers.Gemma4TextConfig(**_GEMMA4_TEXT))


def gemma4_wrapper(*, audio: bool = True, **changed: Any) -> transformers.PreTrainedModel:
    """The multimodal model; `changed` are keys of its vision tower's config."""
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "patch_size": 4,
        "position_embedding_size": 16,
        "max_position_embeddings": 64,
        "use_clipped_linears": True,
        "standardize": True,
        **changed,
    }
    hearing = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "subsampling_conv_channels": [8, 4],
        "output_proj_dims": 24,
        "conv_kernel_size": 3,
    }
    config = transformers.Gemma4Config(
        text_config=_GEMMA4_TEXT,
        vision_config=vision,
        audio_config=hearing if audio else None,
        **{
            key: VOCAB - 1 - i
            for i, key in enumerate(
                (
                    "boi_token_id",
                    "eoi_token_id",
                    "image_token_id",
                    "video_token_id",
                    "boa_token_id",
                    "eoa_token_index",
                    "audio_token_id",
                )
            )
        },
    )
    return transformers.Gemma4ForConditionalGeneration(config)


def _qwen3_moe() -> transformers.PreTrainedModel:
    return transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(
            **_DECODER,
            intermediate_size=48,
            head_dim=16,
            num_experts=EXPERTS,
            moe_intermediate_size=16,
            mlp_only_layers=[1],
            norm_topk_prob=True,
            attention_bias=True,
        )
    )


def _mixtral() -> transformers.PreTrainedModel:
    return transformers.MixtralForCausalLM(
        transformers.MixtralConfig(**_DECODER, intermediate_size=16, num_local_experts=EXPERTS)
    )


def _gpt_oss() -> transformers.PreTrainedModel:
    return transformers.GptOssForCausalLM(
        transformers.GptOssConfig(
            **_DECODER,
            intermediate_size=16,
            head_dim=16,
            num_local_experts=EXPERTS,
            sliding_window=4,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        )
    )


def _deepseek_v3() -> transformers.PreTrainedModel:
    return transformers.DeepseekV3ForCausalLM(
        transformers.DeepseekV3Config(
            **{**_DECODER, "num_key_value_heads": 2},
            intermediate_size=48,
            moe_intermediate_size=16,
            n_routed_experts=EXPERTS,
            n_shared_experts=1,
            n_group=GROUPS,
            topk_group=1,
            first_k_dense_replace=1,
            kv_lora_rank=16,
            q_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=8,
            norm_topk_prob=True,
            routed_scaling_factor=1.5,
        )
    )


def olmoe() -> transformers.PreTrainedModel:
    """A model of a family that does not ship with secateur."""
    return transformers.OlmoeForCausalLM(
        transformers.OlmoeConfig(
            **{**_DECODER, "num_hidden_layers": 2},
            intermediate_size=24,
            num_experts=EXPERTS,
            eos_token_id=1,
            pad_token_id=0,
        )
    )


MODELS = {
    "gemma4": _gemma4,
    "gemma4_wrapper": gemma4_wrapper,
    "qwen3_moe": _qwen3_moe,
    "mixtral": _mixtral,
    "gpt_oss": _gpt_oss,
    "deepseek_v3": _deepseek_v3,
}

FAMILIES = tuple(family.name for family in families())
"""Every family that ships with secateur; each has a model of its name in MODELS."""

_STACKED = {family.name for family in families() if any(row.per_expert for row in family.rows)}
FORMS = {
    **{kind: (kind, False) for kind in MODELS},
    **{f"{kind}_fused": (kind, True) for kind in MODELS if kind in _STACKED},
}
"""Every checkpoint form: name -> (model, experts stacked though its publisher splits them)."""

MOE_LAYERS = {"qwen3_moe": (0, 2), "deepseek_v3": (1, 2)}
"""Layers with experts, of models that have them not in all three."""

CACHED = {"gemma4": 2 * 2 * 16, "deepseek_v3": 16 + 8}
"""Numbers that llama.cpp keeps of a token in a layer, where it is not one head's key and value."""


def save_tiny(
    form: str,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    shard_size: int | str = "5GB",
) -> Path:
    """Save a random model of one of FORMS, with a tokenizer and a template; returns `folder`."""
    kind, fused = FORMS[form]
    return save_model(
        MODELS[kind], folder, dtype=dtype, seed=seed, shard_size=shard_size, fused=fused
    )


def save_model(
    made: Callable[[], transformers.PreTrainedModel],
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    shard_size: int | str = "5GB",
    fused: bool = False,
) -> Path:
    """As `save_tiny`, of a model that `made` makes."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(seed)
    model = made()
    _randomise(model, torch.Generator().manual_seed(seed))
    model.to(dtype).save_pretrained(
        folder, save_original_format=not fused, max_shard_size=shard_size
    )
    _save_tokenizer(folder)
    return folder


def load(folder: Path, **options: Any) -> transformers.PreTrainedModel:
    """The checkpoint in transformers, in float32; every tensor used and none made up."""
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, architecture).from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
        **options,
    )
    problems = {key: value for key, value in info.items() if value}
    assert not problems, problems
    return model.eval()


def logits(model: transformers.PreTrainedModel, seed: int = 1) -> torch.Tensor:
    """Logits of 2 rows of 12 random tokens, (rows, tokens, vocab)."""
    # The highest ids stand for images and sounds in the wrapper.
    ids = torch.randint(0, VOCAB - 8, (2, 12), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(input_ids=ids).logits


def difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    return float((got - expected).abs().max() / expected.abs().max())


def _randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    for name, tensor in model.state_dict().items():
        if name.endswith(("_min", "_max")):
            continue  # clipping bounds, infinite as published
        noise = torch.randn(tensor.shape, generator=generator)
        if "norm" in name or "scale" in name or "layer_scalar" in name:
            value = 1 + 0.4 * noise
        elif name.endswith(("bias", "sinks")):
            value = 0.5 * noise
        else:
            value = noise * (0.4 if "gate.weight" in name or "router" in name else 0.2)
        tensor.copy_(value)


def _save_tokenizer(folder: Path) -> None:
    words = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}
    words |= {f"w{i}": i for i in range(len(words), VOCAB)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "pad_token": "<pad>",
                "eos_token": "<eos>",
                "bos_token": "<bos>",
                "unk_token": "<unk>",
            }
        )
    )
    (folder / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for message in messages %} {{ message['content'] }}{% endfor %}"
    )
