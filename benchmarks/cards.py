"""The counts and sizes that the five cards give, from the real model's shape. Writes cards.json.

No weights: names and shapes are those of transformers' text model on the meta device, built from
the published config; experts are counted by our own selection, tensors and files by our own GGUF
planning, with a header as large as that of the real vocabulary (15.8 MB; gemma4_facts.py).

    python benchmarks/cards.py
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import gemma4_facts
import torch
from goals import result_path

from secateur.checkpoint.config_edit import with_experts
from secateur.families.registry import family_of
from secateur.families.schema import Family
from secateur.formats.gguf.container import (
    STRING,
    Metadata,
    TensorInfo,
    Value,
    file_bytes,
    header_bytes,
)
from secateur.formats.gguf.reader import read_gguf
from secateur.formats.gguf.rules import gguf_rules
from secateur.formats.gguf.tensors import gguf_tensors
from secateur.pruning.selection import kept_count
from secateur.recipes.llama_mixes import ModelTraits
from secateur.recipes.llama_types import TypeRequest, choose_types

VISION = 573_000_000
"""Parameters of the vision tower, to three digits: those of the published mmproj (27 layers of 1152
and 4304)."""
KEPT = {0.0: 128, 0.15: 109, 0.20: 103, 0.30: 90}
Shapes = dict[str, tuple[int, ...]]
TYPES = ("F16", "Q8_0", "Q4_K_M")


def text_shapes(config: dict[str, Any]) -> Shapes:
    """Names and shapes of the text model's parameters and persistent buffers, as published."""
    import transformers

    text = transformers.Gemma4TextConfig.from_dict(config["text_config"])
    with torch.device("meta"):
        model = transformers.Gemma4ForCausalLM(text)
    state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state.pop("lm_head.weight")  # the embedding
    return {
        name.replace("model.", "model.language_model.", 1): shape for name, shape in state.items()
    }


def pruned(family: Family, whole: Shapes, experts: int) -> Shapes:
    """The shapes with `experts` experts, by the family's rows."""
    shapes = {}
    for name, shape in whole.items():
        axis = family.classify(name).row.expert_axis
        changed = list(shape)
        if axis is not None:
            changed[axis] = experts
        shapes[name] = tuple(changed)
    return shapes


def sizes(config_text: str, experts: int, whole: Shapes, header: Metadata) -> dict[str, Any]:
    """Parameters, tensors and exact GGUF bytes with `experts` experts a layer."""
    family = family_of(json.loads(config_text))
    config = json.loads(with_experts(config_text, family, experts))
    shapes = pruned(family, whole, experts)
    text = sum(math.prod(shape) for shape in shapes.values())
    tensors = gguf_tensors(family, config, shapes)
    infos = [tensor.info for tensor in tensors]
    quantize: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in gguf_rules(family).quantize.items()
    }
    part = config["text_config"]
    traits = ModelTraits(
        layers=part["num_hidden_layers"],
        experts=experts,
        heads=part["num_attention_heads"],
        kv_heads=part["num_key_value_heads"],
        **quantize,
    )
    files, data = {}, {}
    for ftype in TYPES:
        choices = choose_types(infos, traits, TypeRequest(ftype))
        typed = [TensorInfo(i.name, c.type, i.shape) for i, c in zip(infos, choices, strict=True)]
        files[ftype] = file_bytes(header, typed)
        data[ftype] = sum(info.nbytes for info in typed)
    return {
        "text_parameters": text,
        "parameters_with_vision": text + VISION,
        "gguf_tensors": len(infos),
        "gguf_bytes": files,
        "gguf_mib": {ftype: round(nbytes / 2**20, 3) for ftype, nbytes in files.items()},
        # What llama-quantize prints, and card 000 gives: the tensors without the header.
        "tensor_mib": {ftype: round(nbytes / 2**20, 3) for ftype, nbytes in data.items()},
    }


def cards(data: Path) -> dict[str, Any]:
    """Everything by experts kept."""
    config = (data / "config.json").read_text()
    vocabulary = read_gguf(data / "vocabulary.gguf").metadata
    # One string of the same size in its stead: serializing the tokenizer takes a second each time.
    bare = header_bytes({"all": Value(STRING, "")}, ())
    header = {"all": Value(STRING, "x" * (header_bytes(vocabulary, ()) - bare))}
    whole = text_shapes(json.loads(config))
    found = {}
    for drop in KEPT:
        experts = kept_count(128, drop=drop)
        found[str(experts)] = {
            "drop": drop,
            **sizes(config, experts, whole, header),
        }
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        experts = cards(gemma4_facts.write_model(Path(folder)))
    found = {"vision_parameters": VISION, "experts": experts}
    text = json.dumps(found, indent=1)
    result_path("cards").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
