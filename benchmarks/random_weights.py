"""A model with random weights of the shape of Gemma 4 26B-A4B, made where it is needed."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gemma4_facts
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from secateur.calibration import layer_pass
from secateur.checkpoint.reader import Checkpoint, open_checkpoint, open_shape
from secateur.corpus.rows import Corpus, Row, Sample, make_corpus
from secateur.forward.weights import CheckpointWeights, WeightSource

ROW = 2048
"""Tokens of a document."""


SMALL = {
    "hidden_size": 256, "intermediate_size": 192, "moe_intermediate_size": 64, "num_experts": 32,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "global_head_dim": 128,
    "vocab_size": 4096, "vocab_size_per_layer_input": 4096,
}  # fmt: skip
"""Where there is no GPU, a model of this size."""


def config_of(layers: int, small: bool) -> dict[str, Any]:
    """Gemma 4 26B-A4B's text model with so many layers."""
    text = copy.deepcopy(gemma4_facts.CONFIG["text_config"])
    text |= {
        "architectures": ["Gemma4ForCausalLM"],
        "num_hidden_layers": layers,
        "layer_types": text["layer_types"][:layers],
        **(SMALL if small else {}),
    }
    return text


@dataclass(frozen=True)
class Random:
    """Random weights, made when they are first asked for and kept on a device."""

    checkpoint: Checkpoint
    device: torch.device
    held: dict[str, Tensor]

    @property
    def config(self) -> Mapping[str, Any]:
        return self.checkpoint.config

    @property
    def family(self) -> Any:
        return self.checkpoint.family

    def names(self) -> Sequence[str]:
        return CheckpointWeights(self.checkpoint).names()

    def tensor(self, name: str) -> Tensor:
        if name not in self.held:
            shape = self.checkpoint.specs[name].shape
            self.held[name] = random(name, tuple(shape), self.device)
        return self.held[name]

    def experts(self, name: str) -> Tensor:
        return self.tensor(name)


def random(name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
    if "norm" in name or len(shape) < 2:
        return torch.ones(shape, dtype=torch.bfloat16, device=device)
    tensor = torch.empty(shape, dtype=torch.bfloat16, device=device)
    scale = 0.15 if "router" in name else 0.02
    for part in tensor if len(shape) > 2 else [tensor]:  # an expert at a time: less memory
        part.normal_(0.0, scale)
    return tensor


@contextmanager
def weights_of(source: WeightSource) -> Iterator[None]:
    """Let calibrations read the weights of a source."""
    before = layer_pass.CheckpointWeights
    layer_pass.CheckpointWeights = lambda _: source
    try:
        yield
    finally:
        layer_pass.CheckpointWeights = before


def rows_of(tokens: int, vocab: int, length: int) -> Corpus:
    draw = np.random.default_rng(0)
    count = max(1, tokens // length)
    rows = [
        Row(draw.integers(0, vocab, length), np.zeros(length, np.int32),
            np.arange(length, dtype=np.int32), "random", (number,))
        for number in range(count)
    ]  # fmt: skip
    samples = [Sample("random", "random", f"{number:064x}", length) for number in range(count)]
    return make_corpus(rows, samples, {})


@dataclass(frozen=True)
class _AsTheyAre:
    source: Random

    def tensor(self, name: str) -> Tensor:
        return self.source.tensor(name)

    experts = tensor


def open_random(layers: int, small: bool, folder: Path, device: torch.device) -> Random:
    """A model of which only the shapes are on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(layers, small)))
    checkpoint = open_shape(folder / "config.json")
    checkpoint._computed["identity"] = "random"
    return Random(checkpoint, device, {})


def write_checkpoint(source: Random, folder: Path, seconds: float) -> Checkpoint:
    """The first layers of a model as a checkpoint on disk, as many as can be written in time."""
    begun = time.perf_counter()
    names = list(source.names())
    weight_map: dict[str, str] = {}
    layers = 0
    folder.mkdir(parents=True)
    for layer in range(source.checkpoint.layers):
        if layer and layer % 6 == 0 and time.perf_counter() - begun > seconds:
            break  # after a layer of full attention, which has to be the last
        mine = [name for name in names if f".layers.{layer}." in name]
        shard = f"model-{layer:02d}.safetensors"
        save_file({n: source.tensor(n).cpu() for n in mine}, folder / shard, {"format": "pt"})
        weight_map |= dict.fromkeys(mine, shard)
        layers += 1
    rest = [name for name in names if ".layers." not in name]
    save_file({n: source.tensor(n).cpu() for n in rest}, folder / "model-rest.safetensors",
              {"format": "pt"})  # fmt: skip
    weight_map |= dict.fromkeys(rest, "model-rest.safetensors")
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {**source.config, "num_hidden_layers": layers}
    config["layer_types"] = config["layer_types"][:layers]
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = open_checkpoint(folder)
    checkpoint._computed["identity"] = "random"
    return checkpoint


def forget_files(folder: Path) -> bool:
    """Let the system forget what it holds of the files; False where it may not be told to."""
    os.sync()
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True
