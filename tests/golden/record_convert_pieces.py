"""Record convert/pieces and convert/ranked: what llama.cpp's converter makes of Mixtral folders.

Run by hand after a change of the pinned llama.cpp:
PYTHONPATH=. python tests/golden/record_convert_pieces.py LLAMA_CPP/CONVERTER VERSION

`pieces` has a SentencePiece model, trained here on gemmule's test set, sizes its heads by the
width; `ranked` has the same tokenizer as tokenizer.json only, and a head_dim of its own. Both are
in the published form, one tensor per expert and projection. The weights are those of `weights`,
which tests make again; of what the converter writes are kept the metadata, and each tensor's
name, type, shape and the sha256 of its bytes.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from secateur.formats.gguf.reader import read_gguf
from secateur.formats.gguf.sentencepiece import read_pieces

HERE = Path(__file__).parent / "convert"
TEXT = Path(__file__).parents[2] / "secateur/gemmule/sets/test.jsonl"
LAYERS, HIDDEN, HEADS, KV_HEADS, WIDTH, EXPERTS = 2, 64, 4, 2, 32, 4
CONFIG = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "torch_dtype": "float16",
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "max_position_embeddings": 32768,
    "num_attention_heads": HEADS,
    "num_experts_per_tok": 2,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "num_local_experts": EXPERTS,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[INST] {{ message['content'] }} [/INST]"
    "{% endfor %}"
)
SPECIAL = ("<unk>", "<s>", "</s>")


def shapes_of(config: dict) -> dict[str, tuple[int, ...]]:
    """The tensors of such a config as its publisher names them."""
    head = config.get("head_dim") or HIDDEN // HEADS
    out = dict.fromkeys(
        ("model.embed_tokens.weight", "lm_head.weight"), (config["vocab_size"], HIDDEN)
    )
    out["model.norm.weight"] = (HIDDEN,)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        out[f"{at}.self_attn.q_proj.weight"] = (HEADS * head, HIDDEN)
        for name in "kv":
            out[f"{at}.self_attn.{name}_proj.weight"] = (KV_HEADS * head, HIDDEN)
        out[f"{at}.self_attn.o_proj.weight"] = (HIDDEN, HEADS * head)
        for name in ("input_layernorm", "post_attention_layernorm"):
            out[f"{at}.{name}.weight"] = (HIDDEN,)
        out[f"{at}.block_sparse_moe.gate.weight"] = (EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            for name, size in (
                ("w1", (WIDTH, HIDDEN)),
                ("w2", (HIDDEN, WIDTH)),
                ("w3", (WIDTH, HIDDEN)),
            ):
                out[f"{at}.block_sparse_moe.experts.{expert}.{name}.weight"] = size
    return out


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Numbers between -1/2 and 1/2, all different in a tensor and from tensor to tensor."""
    made = {}
    for number, (name, shape) in enumerate(sorted(shapes.items())):
        steps = np.arange(int(np.prod(shape)), dtype=np.int64) * 40503 + 977 * number
        made[name] = (steps % 65521 / 65521 - 0.5).astype(np.float16).reshape(shape)
    return made


def train(folder: Path) -> None:
    """A SentencePiece model of Llama's kind, of some 400 pieces."""
    import sentencepiece

    with tempfile.TemporaryDirectory() as aside:
        sentencepiece.SentencePieceTrainer.train(
            input=str(TEXT),
            model_prefix=str(Path(aside) / "words"),
            model_type="bpe",
            vocab_size=420,
            byte_fallback=True,
            split_digits=True,
            character_coverage=0.995,
            normalization_rule_name="identity",
            allow_whitespace_only_pieces=True,
            remove_extra_whitespaces=False,
            num_threads=1,
            minloglevel=2,
        )
        (folder / "tokenizer.model").write_bytes((Path(aside) / "words.model").read_bytes())


def fast_tokenizer(pieces: list) -> dict:
    """tokenizer.json of a SentencePiece model, as transformers converts them."""
    vocab = {piece.text: number for number, piece in enumerate(pieces)}
    merges = []
    for text, score, kind in pieces:
        if kind == 1 and len(text) > 1:
            for at in range(1, len(text)):
                if text[:at] in vocab and text[at:] in vocab:
                    merges.append((-score, vocab[text[:at]], vocab[text[at:]], text, at))
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    first, second = ({"Sequence": {"id": word, "type_id": n}} for n, word in enumerate("AB"))
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
                "special": True,
            }
            for number, text in enumerate(SPECIAL)
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, first],
            "pair": [bos, first, bos, second],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
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
            "vocab": vocab,
            "merges": [[text[:at], text[at:]] for *_, text, at in sorted(merges)],
        },
    }


def settings(pieces: int) -> dict:
    """tokenizer_config.json as Mixtral's, with one more token, and one without a row."""
    special = {str(n): {"content": text, "special": True} for n, text in enumerate(SPECIAL)}
    more = {str(pieces): {"content": "<tool▁x>", "special": False}}
    beyond = {str(pieces + 50): {"content": "<none>", "special": True}}
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": True,
        "added_tokens_decoder": {**special, **more, **beyond},
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": None,
        "chat_template": TEMPLATE,
        "tokenizer_class": "LlamaTokenizer",
    }


def record(folder: Path, config: dict, converter: str, version: str) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    generation = {"bos_token_id": 1, "eos_token_id": 2, "temperature": 0.7}
    (folder / "generation_config.json").write_text(json.dumps(generation) + "\n")
    shapes = shapes_of(config)
    save_file(weights(shapes), folder / "model.safetensors")
    with tempfile.TemporaryDirectory() as aside:
        out = Path(aside) / "out.gguf"
        command = [sys.executable, converter, str(folder), "--outfile", str(out)]
        subprocess.run([*command, "--outtype", "f16"], check=True)
        file = read_gguf(out)
        tensors = [
            [t.name, t.type, t.shape, hashlib.sha256(file.data(t.name).tobytes()).hexdigest()]
            for t in file.tensors.values()
        ]
    (folder / "model.safetensors").unlink()
    expected = {
        "converter": version,
        "metadata": {key: [v.kind, v.value] for key, v in file.metadata.items()},
        "tensors": tensors,
    }
    (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=False) + "\n")


def main() -> None:
    converter, version = sys.argv[1:]
    for name, more, head in (("pieces", 4, None), ("ranked", 0, 32)):
        folder = HERE / name
        folder.mkdir(parents=True, exist_ok=True)
        train(folder)
        pieces = list(read_pieces(folder / "tokenizer.model"))
        words = settings(len(pieces))
        if name == "ranked":
            (folder / "tokenizer.model").unlink()
            fast = json.dumps(fast_tokenizer(pieces), ensure_ascii=False)
            (folder / "tokenizer.json").write_text(fast + "\n")
            del words["added_tokens_decoder"]
        (folder / "tokenizer_config.json").write_text(json.dumps(words, indent=1) + "\n")
        config = {**CONFIG, "vocab_size": len(pieces) + more}
        if head is not None:
            config |= {"head_dim": head, "rope_parameters": {"rope_theta": 1e6}}
        record(folder, config, converter, version)


if __name__ == "__main__":
    main()
