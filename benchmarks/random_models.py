"""Random models for benchmarks, all of them by `secateur synth`: one maker, one kind of numbers.

The real Gemma 4 26B-A4B's shapes come from `gemma4_facts.py`; its tokenizer is gemmule's, with
made-up words up to the real number of tokens, so that every file has the real sizes of weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gemma4_facts
import numpy as np

import secateur
from secateur.checkpoint.hub import gemmule_folder

WIDE: dict[str, Any] = {
    "vocab_size": 4096,
    "vocab_size_per_layer_input": 4096,
    "hidden_size": 1024,
    "intermediate_size": 768,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "global_head_dim": 256,
    "sliding_window": 256,
    "layer_types": ["sliding_attention", "full_attention"],
}
"""What a model of two layers and a third of the width has other than Gemma 4 26B-A4B."""


def wide(folder: Path, **changed: Any) -> Path:
    """A model of WIDE, which has gemmule's tokens; `changed` are keys of its config."""
    return gemma26(folder, None, **{**WIDE, **changed})


def gemma26(folder: Path, layers: int | None, **changed: Any) -> Path:
    """The real width with some layers (None: as many as the config says); `changed` are keys of the
    text model's config."""
    text = {**gemma4_facts.CONFIG["text_config"], **changed}
    return random_model(folder, {**text, "architectures": ["Gemma4ForCausalLM"]}, layers)


def random_model(folder: Path, config: Mapping[str, Any], layers: int | None = None) -> Path:
    """A random checkpoint of a config, with a tokenizer; what is there already is kept."""
    if folder.exists():
        return folder
    source = folder.with_name(f"{folder.name}-config")
    source.mkdir(parents=True, exist_ok=True)
    (source / "config.json").write_text(json.dumps(config, indent=1))
    write_tokenizer(source, config.get("text_config", config)["vocab_size"])
    secateur.synth(source, folder, secateur.RandomWeights(layers=layers))
    return folder


def write_tokenizer(folder: Path, vocab: int) -> None:
    """gemmule's tokenizer and template, with words that never occur up to `vocab` tokens."""
    for path in gemmule_folder().iterdir():
        if path.name.startswith("tokenizer") or path.suffix == ".jinja":
            (folder / path.name).write_bytes(path.read_bytes())
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text("utf-8"))
    known = tokenizer["model"]["vocab"]
    known |= {f"unused{number:06d}": number for number in range(len(known), vocab)}
    file.write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")


def random_rows(path: Path, tokens: int, vocab: int, row: int) -> Path:
    """A file of rows of random token numbers."""
    ids = np.random.default_rng(0).integers(256, vocab, (max(1, tokens // row), row)).tolist()
    path.write_text("".join(json.dumps({"input_ids": one}) + "\n" for one in ids))
    return path
