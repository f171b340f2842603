"""What is known of google/gemma-4-26B-A4B-it, as facts: numbers, byte counts and hashes.

Tests and benchmarks decide and predict for the real model from these; nothing of it is shipped.
`write_model(folder)` writes a config with its numbers, and a GGUF that stands in for its
vocabulary: every section has as many entries and bytes as the real one, so that sizes of files come
out to the byte. Its words are made up; its special tokens and their types are the real ones, its
chat template is gemmule's. Whoever has the real vocabulary can hold it against the facts:

    python benchmarks/gemma4_facts.py VOCABULARY.gguf
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from secateur.checkpoint.hub import gemmule_folder
from secateur.formats.gguf.container import Metadata, Value, header_parts, metadata_bytes
from secateur.formats.gguf.reader import read_gguf
from secateur.formats.gguf.writer import write_gguf

LAYERS, VOCAB, CONTEXT = 30, 262_144, 262_144

CONFIG: dict[str, Any] = {
    "architectures": ["Gemma4ForConditionalGeneration"],
    "model_type": "gemma4",
    "dtype": "bfloat16",
    "text_config": {
        "model_type": "gemma4_text",
        "dtype": "bfloat16",
        "vocab_size": VOCAB,
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size": 2816,
        "hidden_size_per_layer_input": 0,
        "intermediate_size": 2112,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "num_global_key_value_heads": 2,
        "head_dim": 256,
        "global_head_dim": 512,
        "attention_k_eq_v": True,
        "num_kv_shared_layers": 0,
        "enable_moe_block": True,
        "num_experts": 128,
        "top_k_experts": 8,
        "moe_intermediate_size": 704,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "sliding_window": 1024,
        # Every sixth layer attends to everything.
        "layer_types": [
            "full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(LAYERS)
        ],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {
                "rope_type": "proportional",
                "partial_rotary_factor": 0.25,
                "rope_theta": 1e6,
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
    },
    "tie_word_embeddings": True,
}

NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6
"""llama.cpp's types of tokens."""

SPECIAL = {
    0: ("<pad>", CONTROL), 1: ("<eos>", CONTROL), 2: ("<bos>", CONTROL), 3: ("<unk>", CONTROL),
    4: ("<mask>", CONTROL), 46: ("<|tool>", CONTROL), 47: ("<tool|>", CONTROL),
    48: ("<|tool_call>", USER_DEFINED), 49: ("<tool_call|>", USER_DEFINED),
    50: ("<|tool_response>", USER_DEFINED), 51: ("<tool_response|>", USER_DEFINED),
    52: ('<|"|>', USER_DEFINED), 98: ("<|think|>", CONTROL), 100: ("<|channel>", USER_DEFINED),
    101: ("<channel|>", USER_DEFINED), 105: ("<|turn>", CONTROL), 106: ("<turn|>", CONTROL),
}  # fmt: skip
"""The tokens of turns, thoughts and tools: number -> (text, type)."""

TEXT_BYTES = {"tokenizer.ggml.tokens": 2_316_295, "tokenizer.ggml.merges": 5_132_471}
"""UTF-8 bytes of the strings of a section."""

SECTIONS = {
    "tokenizer.ggml.model": (
        1, 46, "586f240e378aaee713b1a96c41c65bfe9f40666579ea03d2df06837e6e2a570f",
    ),
    "tokenizer.ggml.tokens": (
        VOCAB, 4_413_492, "44ae27c2a2e79a7931d1a06af86d59ab09c7da8120c510bd0969ddfbb5c0a130",
    ),
    "tokenizer.ggml.scores": (
        VOCAB, 1_048_621, "7b5666c53a2ae0f181d734e2234ba9f2dde11149d7452bda1d490129fda6b0a9",
    ),
    "tokenizer.ggml.token_type": (
        VOCAB, 1_048_625, "d1f5b3c49b31207e08f1773fccd58e0197a2f095290344e88900759e8ad86f74",
    ),
    "tokenizer.ggml.merges": (
        514_906, 9_251_764, "43cb60b011c0cc8e8b9a98aad7d325717b5b71dc309893550fede277396f4ff4",
    ),
    "tokenizer.chat_template": (
        1, 12_088, "4eb50a3a59bb5c67bd1c3513f9897c794f65604b669c084bfed480a8d7e5b482",
    ),
}  # fmt: skip
"""Of the vocabulary GGUF that llama.cpp ships (15,776,467 bytes): key -> (entries, bytes with the
key, sha256 of those bytes)."""

FILE_BYTES = 15_776_467

ARCHITECTURE: dict[str, tuple[str, Any]] = {
    "block_count": ("u32", 30),
    "context_length": ("u32", CONTEXT),
    "embedding_length": ("u32", 2816),
    "feed_forward_length": ("u32", 2112),
    "attention.head_count": ("u32", 16),
    "attention.head_count_kv": ("i32", tuple(2 if n % 6 == 5 else 8 for n in range(LAYERS))),
    "rope.freq_base": ("f32", 1e6),
    "rope.freq_base_swa": ("f32", 1e4),
    "attention.layer_norm_rms_epsilon": ("f32", 1e-6),
    "expert_count": ("u32", 128),
    "expert_used_count": ("u32", 8),
    "attention.key_length": ("u32", 512),
    "attention.value_length": ("u32", 512),
    "final_logit_softcapping": ("f32", 30.0),
    "attention.sliding_window": ("u32", 1024),
    "attention.shared_kv_layers": ("u32", 0),
    "embedding_length_per_layer_input": ("u32", 0),
    "attention.sliding_window_pattern": ("bool", tuple(n % 6 != 5 for n in range(LAYERS))),
    "attention.key_length_swa": ("u32", 256),
    "attention.value_length_swa": ("u32", 256),
    "expert_feed_forward_length": ("u32", 704),
    "rope.dimension_count": ("u32", 512),
    "rope.dimension_count_swa": ("u32", 256),
}
"""Its keys under the name of its architecture, as llama.cpp's own vocabulary GGUF has them."""


def config_text() -> str:
    """config.json with the real model's numbers."""
    return json.dumps(CONFIG, indent=2) + "\n"


def write_model(folder: Path) -> Path:
    """Write `config.json` and the stand-in for the vocabulary (`vocabulary.gguf`) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config_text(), "utf-8")
    write_gguf(folder / "vocabulary.gguf", vocabulary(), (), ())
    return folder


def vocabulary() -> Metadata:
    """The metadata of the stand-in: every section as large as the real one."""
    ids = {"bos": 2, "eos": 1, "unknown": 3, "padding": 0, "mask": 4}
    tokens = list(_tokens())
    types = [NORMAL] * VOCAB
    for number, (text, kind) in SPECIAL.items():
        tokens[number], types[number] = text, kind
    for byte in range(256):
        tokens[238 + byte], types[238 + byte] = f"<0x{byte:02X}>", BYTE
    template = (gemmule_folder() / "chat_template.jinja").read_text("utf-8")
    whole: dict[str, Value] = {
        "general.architecture": Value("string", "gemma4"),
        "general.type": Value("string", "model"),
        "general.name": Value("string", "0" * 40),
        "general.finetune": Value("string", "0" * 40),
        **{f"gemma4.{key}": Value(kind, value) for key, (kind, value) in ARCHITECTURE.items()},
        "general.file_type": Value("u32", 1),
        "general.quantization_version": Value("u32", 2),
        "tokenizer.ggml.model": Value("string", "gemma4"),
        "tokenizer.ggml.tokens": Value("string", _fill("tokenizer.ggml.tokens", tokens)),
        "tokenizer.ggml.scores": Value("f32", (-1000.0,) * VOCAB),
        "tokenizer.ggml.token_type": Value("i32", tuple(types)),
        "tokenizer.ggml.merges": Value("string", _fill("tokenizer.ggml.merges", list(_merges()))),
        **{f"tokenizer.ggml.{key}_token_id": Value("u32", number) for key, number in ids.items()},
        "tokenizer.chat_template": Value("string", template),
        "tokenizer.ggml.add_space_prefix": Value("bool", False),
        "tokenizer.ggml.add_bos_token": Value("bool", True),
    }
    return whole


def section_sha256(key: str, value: Value) -> str:
    """sha256 of a key and its value as a GGUF holds them."""
    header = b"".join(header_parts({key: value}, ()))
    return hashlib.sha256(header[24 : 24 + metadata_bytes({key: value})]).hexdigest()


def differences(path: Path) -> list[str]:
    """The sections of a vocabulary GGUF that are not as large, or not the ones, of SECTIONS."""
    metadata = read_gguf(path).metadata
    found = []
    for key, (entries, nbytes, sha256) in SECTIONS.items():
        held = metadata[key]
        got = (
            len(held.value) if isinstance(held.value, tuple) else 1,
            metadata_bytes({key: held}),
            section_sha256(key, held),
        )
        found += [] if got == (entries, nbytes, sha256) else [f"{key}: {got}"]
    return found


def _tokens() -> Iterator[str]:
    yield from (f"t{number:06x}" for number in range(VOCAB))


def _merges() -> Iterator[str]:
    yield from (f"{number:05x} m" for number in range(SECTIONS["tokenizer.ggml.merges"][0]))


def _fill(key: str, texts: list[str]) -> tuple[str, ...]:
    """Lengthen the texts, from the last one back, until together they have the real bytes."""
    lacking = TEXT_BYTES[key] - sum(map(len, texts))
    each, rest = divmod(lacking, len(texts) // 2)
    for back in range(1, len(texts) // 2 + 1):
        texts[-back] += "_" * (each + (back <= rest))
    return tuple(texts)


def main() -> None:
    found = differences(Path(sys.argv[1]))
    print("\n".join(found) or "every section is the real one")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
