"""Record convert/: what llama.cpp's own converter makes of small checkpoint folders.

Run by hand after a change of the pinned llama.cpp:
PYTHONPATH=. python tests/golden/record_convert.py LLAMA_CPP/convert_hf_to_gguf.py VERSION

`text` is a Gemma4ForCausalLM folder, `wrapper` the multimodal one, `single` a Qwen3 MoE with one
tensor per expert and projection; they lie in convert/ without their weights, which are zeros,
beside the converter's metadata and tensors as JSON. The converter knows a byte-level tokenizer by
a hash of its token ids, which a small one cannot have, so `single` is told its name.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers.pre_tokenizers import ByteLevel

from secateur.families.registry import family_of
from secateur.formats.gguf.reader import read_gguf
from secateur.formats.gguf.rules import gguf_rules

HERE = Path(__file__).parent / "convert"
VISIBLE = ["<|tool_call>", "<tool_call|>", "<|channel>", "<channel|>", '<|"|>']
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|turn>", "<turn|>", *VISIBLE]
TEXT = {
    "model_type": "gemma4_text",
    "vocab_size_per_layer_input": 0,
    "hidden_size": 64,
    "hidden_size_per_layer_input": 0,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "attention_k_eq_v": True,
    "num_kv_shared_layers": 0,
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 32,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "sliding_window": 64,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
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
}

SINGLE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "dtype": "float16",
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "attention_bias": False,
}


def tokenizer() -> dict:
    """Byte-fallback BPE in Gemma's form, with two added tokens beyond its vocabulary."""
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdehlnorst, .\n"]
    merges = [["▁", "t"], ["h", "e"], ["▁t", "he"], ["o", "r"], ["l", "l"], ["he", "ll"]]
    tokens = list(dict.fromkeys(token for token in tokens if token != " "))
    tokens += ["".join(pair) for pair in merges]
    added = [(number, text, True) for number, text in enumerate(SPECIAL)]
    added += [(len(tokens), "<extra>", True), (len(tokens) + 1, "<plain>", False)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": special,
            }
            for number, text, special in added
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def shapes_of(vocabulary: int) -> dict[str, tuple[int, ...]]:
    """The tensors of TEXT as transformers names them."""
    hidden, dense, expert, experts = 64, 96, 32, 4
    out = {"embed_tokens.weight": (vocabulary, hidden), "norm.weight": (hidden,)}
    for layer, kind in enumerate(TEXT["layer_types"]):
        full = kind == "full_attention"
        head, keys = (32, 32) if full else (16, 32)
        rows = {
            "self_attn.q_proj.weight": (4 * head, hidden),
            "self_attn.k_proj.weight": (keys, hidden),
            "self_attn.o_proj.weight": (hidden, 4 * head),
            "self_attn.q_norm.weight": (head,),
            "self_attn.k_norm.weight": (head,),
            "mlp.gate_proj.weight": (dense, hidden),
            "mlp.up_proj.weight": (dense, hidden),
            "mlp.down_proj.weight": (hidden, dense),
            "router.proj.weight": (experts, hidden),
            "router.scale": (hidden,),
            "router.per_expert_scale": (experts,),
            "experts.gate_up_proj": (experts, 2 * expert, hidden),
            "experts.down_proj": (experts, hidden, expert),
            "layer_scalar": (1,),
        }
        if not full:
            rows["self_attn.v_proj.weight"] = (keys, hidden)
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            rows[f"{norm}_layernorm.weight"] = (hidden,)
        for norm in ("post_feedforward", "pre_feedforward"):
            rows[f"{norm}_layernorm_2.weight"] = (hidden,)
        rows["post_feedforward_layernorm_1.weight"] = (hidden,)
        out |= {f"layers.{layer}.{name}": shape for name, shape in rows.items()}
    return out


def byte_level_tokenizer() -> dict:
    """Byte-level BPE with Qwen's split expression, and added tokens of several kinds."""
    letters = sorted(ByteLevel.alphabet())
    merges = [["Ġ", "t"], ["h", "e"], ["Ġt", "he"]]
    tokens = [*letters, *("".join(pair) for pair in merges)]
    added = [("<|endoftext|>", True), ("<|im_start|>", True), ("<think>", False), ("<|x|>", False)]
    rules = gguf_rules(family_of({"model_type": "qwen3_moe"})).tokenizer
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    level["use_regex"] = False
    return {
        **tokenizer(),
        "added_tokens": [
            {
                "id": len(tokens) + number,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": special,
            }
            for number, (text, special) in enumerate(added)
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": rules.split},
                    "behavior": "Isolated",
                    "invert": False,
                },
                level,
            ],
        },
        "decoder": level,
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def gemma_settings() -> dict:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{word}_token": f"<{word}>" for word in ("bos", "eos", "pad", "unk")},
        "mask_token": {"__type": "AddedToken", "content": "<mask>", "special": True},
        "extra_special_tokens": [*SPECIAL[5:], "<extra>"],
    }


def single_shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    """The tensors of SINGLE as its published checkpoints name them."""
    out = dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (vocabulary, 64))
    out["model.norm.weight"] = (64,)
    for layer in range(2):
        at = f"model.layers.{layer}"
        for name, size in (("q", (64, 64)), ("k", (32, 64)), ("v", (32, 64)), ("o", (64, 64))):
            out[f"{at}.self_attn.{name}_proj.weight"] = size
        for name in ("self_attn.q_norm", "self_attn.k_norm"):
            out[f"{at}.{name}.weight"] = (16,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            out[f"{at}.{name}.weight"] = (64,)
        out[f"{at}.mlp.gate.weight"] = (4, 64)
        for expert in range(4):
            for name, size in (("gate", (32, 64)), ("up", (32, 64)), ("down", (64, 32))):
                out[f"{at}.mlp.experts.{expert}.{name}_proj.weight"] = size
    return out


def write_folder(folder: Path, config: dict, words: dict, settings: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    generation = {"temperature": 1.0, "top_k": 64, "top_p": 0.95, "eos_token_id": [1, 6]}
    for name, content in (
        ("config.json", config),
        ("tokenizer.json", words),
        ("tokenizer_config.json", settings),
        ("generation_config.json", generation),
    ):
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m }}{% endfor %}")


def record(folder: Path, shapes: dict, converter: str, version: str) -> None:
    zeros = {name: np.zeros(size, np.float16) for name, size in shapes.items()}
    save_file(zeros, folder / "model.safetensors")
    name_it = (
        "from conversion import TextModel; TextModel.get_vocab_base_pre = lambda *_: 'qwen2'; "
    )
    run_it = f"import runpy; runpy.run_path({converter!r}, run_name='__main__')"
    with tempfile.TemporaryDirectory() as aside:
        out = Path(aside) / "out.gguf"
        program = f"import sys; sys.path.insert(0, {str(Path(converter).parent)!r}); "
        command = [sys.executable, "-c", program + name_it + run_it, str(folder)]
        subprocess.run([*command, "--outfile", str(out), "--outtype", "f16"], check=True)
        file = read_gguf(out)
    (folder / "model.safetensors").unlink()
    expected = {
        "converter": version,
        "checkpoint": {name: list(size) for name, size in shapes.items()},
        "metadata": {key: [v.kind, v.value] for key, v in file.metadata.items()},
        "tensors": [[t.name, t.type, t.shape] for t in file.tensors.values()],
    }
    (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=False) + "\n")


def main() -> None:
    converter, version = sys.argv[1:]
    flat = {"num_global_key_value_heads": 1, "global_head_dim": 32}
    layered = {"per_layer_config": {"2": {"head_dim": 32, "num_key_value_heads": 1}}}
    vocabulary = len(tokenizer()["model"]["vocab"]) + 2
    sized = {**TEXT, "vocab_size": vocabulary}
    text = {"architectures": ["Gemma4ForCausalLM"], "dtype": "float16", **sized, **layered}
    wrapper = {
        "architectures": ["Gemma4ForConditionalGeneration"],
        "model_type": "gemma4",
        "dtype": "float16",
        "text_config": {**sized, **flat},
        "vision_config": {"model_type": "gemma4_vision", "hidden_size": 4},
    }
    vision = {"model.vision_tower.patch.weight": (4, 4)}
    for name, config, prefix, more in (
        ("text", text, "model.", {}),
        ("wrapper", wrapper, "model.language_model.", vision),
    ):
        write_folder(HERE / name, config, tokenizer(), gemma_settings())
        shapes = {prefix + key: size for key, size in shapes_of(vocabulary).items()}
        record(HERE / name, shapes | more, converter, version)
    words = byte_level_tokenizer()
    vocabulary = len(words["model"]["vocab"]) + len(words["added_tokens"]) + 3
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_start|>",
        "pad_token": "<|endoftext|>",
        "add_bos_token": False,
    }
    write_folder(HERE / "single", {**SINGLE, "vocab_size": vocabulary}, words, settings)
    record(HERE / "single", single_shapes(vocabulary), converter, version)


if __name__ == "__main__":
    main()
