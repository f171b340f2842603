"""Turn a checkpoint into a folder that transformers, and this project, can load.

    python gemmule/export.py --work WORK --tokenizer secateur/gemmule --out FOLDER

The folder is built aside and renamed into place. The weights are bf16; the config carries both
forms of the full-attention shape: `per_layer_config`, which transformers 5.15 and later write, and
the flat keys (`global_head_dim`, `num_global_key_value_heads`), which mlx-lm and older converters
read.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from model import SHAPE, build
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
STOPS = [1, 106, 50]  # <eos>, <turn|>, <|tool_response>


def config() -> dict[str, Any]:
    """config.json with both forms."""
    full = {
        str(i): {
            "head_dim": SHAPE["global_head_dim"],
            "num_key_value_heads": SHAPE["num_global_key_value_heads"],
        }
        for i, kind in enumerate(SHAPE["layer_types"])
        if kind == "full_attention"
    }
    head = {
        "architectures": ["Gemma4ForCausalLM"],
        "model_type": "gemma4_text",
        "dtype": "bfloat16",
    }
    return head | SHAPE | {"per_layer_config": full, "use_cache": True}


def generation_config() -> dict[str, Any]:
    """generation_config.json: greedy, stop at the end of a turn or of a tool call."""
    return {"bos_token_id": 2, "eos_token_id": STOPS, "pad_token_id": 0, "do_sample": False}


def weights(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors in bf16: layer scalars in their buffers, the tied head left out."""
    tensors = {name: t for name, t in checkpoint["model"].items() if name != "lm_head.weight"}
    for i, scalar in enumerate(checkpoint["scalars"]):
        tensors[f"model.layers.{i}.layer_scalar"] = scalar.reshape(1)
    return {name: t.to(torch.bfloat16).contiguous() for name, t in sorted(tensors.items())}


def export(checkpoint: dict[str, Any], tokenizer: Path, out: Path) -> None:
    """Write the folder aside, load it once to be sure, then rename it into place."""
    aside = out.with_name(out.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer / name, aside / name)
    for name in ("sets", "README.md", "LICENSE-DATA.md"):
        if (tokenizer / name).is_dir():
            shutil.copytree(tokenizer / name, aside / name)
        elif (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, aside / name)
    tensors = weights(checkpoint)
    save_file(tensors, aside / "model.safetensors", metadata={"format": "pt"})
    (aside / "config.json").write_text(json.dumps(config(), indent=2) + "\n")
    (aside / "generation_config.json").write_text(json.dumps(generation_config(), indent=2) + "\n")
    loaded: Any = AutoModelForCausalLM.from_pretrained(aside, output_loading_info=True)
    found = loaded[1]
    if found["missing_keys"] or found["unexpected_keys"]:
        raise SystemExit(f"the exported folder does not load: {found}")
    (aside / "model.safetensors").chmod(0o644)
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    aside.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    """Export WORK/checkpoint.pt, or a fresh model with --untrained (for tests of the tools)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--untrained", action="store_true")
    args = parser.parse_args()
    if args.untrained:
        checkpoint = {
            "model": build(0).state_dict(),
            "scalars": torch.ones(SHAPE["num_hidden_layers"]),
            "tokens": 0,
        }
    else:
        checkpoint = torch.load(args.work / "checkpoint.pt", weights_only=True)
    export(checkpoint, args.tokenizer, args.out)
    size = (args.out / "model.safetensors").stat().st_size
    print(f"{args.out}: {checkpoint['tokens']} tokens trained, {size} bytes of weights")


if __name__ == "__main__":
    main()
