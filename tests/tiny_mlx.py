"""Tiny models whose rows MLX's groups divide, and what mlx-lm itself makes of a checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import tiny_models
import torch
import transformers
from mlx_lm.convert import convert
from numpy.typing import NDArray

from secateur.checkpoint.reader import open_checkpoint
from secateur.formats.mlx.rules import mlx_config

HIDDEN, WIDTH, DENSE = 128, 64, 192

_GEMMA4 = {
    "hidden_size": HIDDEN,
    "intermediate_size": DENSE,
    "moe_intermediate_size": WIDTH,
    "head_dim": 32,
    "global_head_dim": 64,
}
_DECODER = {**tiny_models._DECODER, "hidden_size": HIDDEN, "rope_theta": 12345.0}


def _qwen3_moe() -> transformers.PreTrainedModel:
    return transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(
            **_DECODER,
            intermediate_size=DENSE,
            head_dim=32,
            num_experts=tiny_models.EXPERTS,
            moe_intermediate_size=WIDTH,
            mlp_only_layers=[1],
            norm_topk_prob=True,
        )
    )


def _mixtral() -> transformers.PreTrainedModel:
    return transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            **_DECODER, intermediate_size=WIDTH, num_local_experts=tiny_models.EXPERTS
        )
    )


def save_wide(form: str, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """One of tiny_models.FORMS (gemma4, qwen3_moe, mixtral), wide enough for groups of 64."""
    kept, models = dict(tiny_models._GEMMA4_TEXT), dict(tiny_models.MODELS)
    try:
        tiny_models._GEMMA4_TEXT.update(_GEMMA4)
        tiny_models.MODELS.update(qwen3_moe=_qwen3_moe, mixtral=_mixtral)
        return tiny_models.save_tiny(form, folder, dtype=dtype)
    finally:
        tiny_models._GEMMA4_TEXT.update(kept)
        tiny_models.MODELS.update(models)


def card_004(path: str, module: Any) -> bool | dict[str, int]:
    """The predicate that card 004 prints."""
    if any(s in path for s in (".mlp.gate_proj", ".mlp.up_proj", ".mlp.down_proj")):
        return {"group_size": 64, "bits": 8}
    if path.endswith("router.proj"):
        return {"group_size": 64, "bits": 8}
    return True


def converted(
    source: Path, folder: Path, predicate: Callable[[str, Any], Any] | None, **words: Any
) -> Path:
    """What `mlx_lm.convert -q` makes of a checkpoint, with the config keys that it needs."""
    checkpoint = open_checkpoint(source)
    readable = shutil.copytree(source, folder.with_name(folder.name + "-readable"))
    text = (source / "config.json").read_text()
    config = mlx_config(text, checkpoint.family, checkpoint.experts, {})
    (readable / "config.json").write_text(config)
    convert(str(readable), str(folder), quantize=True, quant_predicate=predicate, **words)
    return folder


def weights_of(folder: Path) -> dict[str, NDArray[Any]]:
    """All tensors of a folder, 16-bit floats as their bits."""
    found = {}
    for path in sorted(folder.glob("model*.safetensors")):
        for name, array in mx.load(str(path)).items():
            bits = array.view(mx.uint16) if array.dtype in (mx.bfloat16, mx.float16) else array
            found[name] = np.array(bits)
    return found


def config_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))
