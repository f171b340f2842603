"""A tiny Gemma 4 MoE with a vision tower and a tokenizer in its form: what an mmproj is made of.

The tower's numbers are arithmetic of their names, so that what llama.cpp's converter made of them
once (golden/mmproj.json) holds for every version of torch.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from tiny_line import WIDER, in_gemmas_form
from tiny_tokenizer import save_tokenizer

VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,  # no multiple of 32: Q8_0 falls back
    "head_dim": 16,
    "num_hidden_layers": 2,
    "position_embedding_size": 128,
}


def save_vision(folder: Path, *, audio: bool = False, **changed: object) -> Path:
    """Save it into `folder`, in bfloat16; `changed` are keys of the tower's config."""
    kept = dict(tiny_models._GEMMA4_TEXT)
    try:
        tiny_models._GEMMA4_TEXT.update(WIDER)
        tiny_models.save_model(
            lambda: tiny_models.gemma4_wrapper(audio=audio, **{**VISION, **changed}),
            folder,
            dtype=torch.bfloat16,
        )
    finally:
        tiny_models._GEMMA4_TEXT.clear()
        tiny_models._GEMMA4_TEXT.update(kept)
    (folder / "chat_template.jinja").unlink()
    in_gemmas_form(save_tokenizer(folder) / "tokenizer.json")
    prepared = {"image_processor": {"image_mean": [0.0, 0.25, 0.5], "image_std": [1.0, 1.0, 2.0]}}
    (folder / "processor_config.json").write_text(json.dumps(prepared))
    weights = load_file(folder / "model.safetensors")
    for name, old in weights.items():
        # The bounds of the first layer stay infinite, as transformers makes them.
        if "vision" in name and not (name.endswith(("_min", "_max")) and ".layers.0." in name):
            weights[name] = torch.from_numpy(numbers(name, tuple(old.shape))).to(old.dtype)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 in [-0.25, 0.25), told by the name alone."""
    index = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()))
    bits = (index * np.uint64(2654435761) % np.uint64(2**32)) >> np.uint64(8)
    return ((bits.astype(np.float32) / 2**24 - 0.5) / 2).reshape(shape)
