"""Record convert/: what llama.cpp's own converter makes of two small Gemma 4 folders.

Run by hand after a change of the pinned llama.cpp:
PYTHONPATH=. python tests/golden/record_convert.py LLAMA_CPP/convert_hf_to_gguf.py VERSION

`text` is a Gemma4ForCausalLM folder, `wrapper` the multimodal one; both lie in convert/ without
their weights, which are zeros, beside the converter's metadata and tensors as JSON.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from secateur.formats.gguf_reader import read_gguf

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


def write_folder(folder: Path, config: dict, prefix: str) -> None:
    words = tokenizer()
    vocabulary = len(words["model"]["vocab"]) + 2
    folder.mkdir(parents=True, exist_ok=True)
    text = config.get("text_config", config)
    text["vocab_size"] = vocabulary
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{word}_token": f"<{word}>" for word in ("bos", "eos", "pad", "unk", "mask")},
        "extra_special_tokens": [*SPECIAL[5:], "<extra>"],
    }
    settings["mask_token"] = {"__type": "AddedToken", "content": "<mask>", "special": True}
    generation = {"temperature": 1.0, "top_k": 64, "top_p": 0.95, "eos_token_id": [1, 6]}
    for name, content in (
        ("config.json", config),
        ("tokenizer.json", words),
        ("tokenizer_config.json", settings),
        ("generation_config.json", generation),
    ):
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m }}{% endfor %}")
    zeros = {
        prefix + name: np.zeros(size, np.float16) for name, size in shapes_of(vocabulary).items()
    }
    if prefix != "model.":
        zeros["model.vision_tower.patch.weight"] = np.zeros((4, 4), np.float16)
    save_file(zeros, folder / "model.safetensors")


def main() -> None:
    converter, version = sys.argv[1:]
    flat = {"num_global_key_value_heads": 1, "global_head_dim": 32}
    layered = {"per_layer_config": {"2": {"head_dim": 32, "num_key_value_heads": 1}}}
    text = {"architectures": ["Gemma4ForCausalLM"], "dtype": "float16", **TEXT, **layered}
    wrapper = {
        "architectures": ["Gemma4ForConditionalGeneration"],
        "model_type": "gemma4",
        "dtype": "float16",
        "text_config": {**TEXT, **flat},
        "vision_config": {"model_type": "gemma4_vision", "hidden_size": 4},
    }
    for name, config, prefix in (
        ("text", text, "model."),
        ("wrapper", wrapper, "model.language_model."),
    ):
        folder = HERE / name
        write_folder(folder, config, prefix)
        with tempfile.TemporaryDirectory() as aside:
            out = Path(aside) / "out.gguf"
            command = [sys.executable, converter, str(folder), "--outfile", str(out)]
            subprocess.run([*command, "--outtype", "f16"], check=True)
            file = read_gguf(out)
        (folder / "model.safetensors").unlink()
        expected = {
            "converter": version,
            "metadata": {key: [v.kind, v.value] for key, v in file.metadata.items()},
            "tensors": [[t.name, t.type, t.shape] for t in file.tensors.values()],
        }
        (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
