"""The forms in which benchmarks/models lays a real model out are one function, and what another
tool wrote of one form is put into our file of another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from models import smollm2
from rounding_elsewhere import put_in, same_types
from torch import Tensor
from transformers import LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from secateur.formats.gguf.container import TensorInfo
from secateur.formats.gguf.reader import GgufFile, read_gguf
from secateur.formats.gguf.writer import TensorChunk, write_gguf

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
CHANNELS = 64


def config(wide: bool) -> MixtralConfig:
    scale = 4 / 3 if wide else 1
    return MixtralConfig(
        vocab_size=16, hidden_size=int(smollm2.HIDDEN * scale), intermediate_size=CHANNELS,
        num_hidden_layers=1, num_attention_heads=int(9 * scale), num_key_value_heads=int(3 * scale),
        head_dim=smollm2.HEAD, rms_norm_eps=1e-5 / scale, tie_word_embeddings=True,
        num_local_experts=1, num_experts_per_tok=1,
    )  # fmt: skip


def weights() -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = MixtralForCausalLM(config(wide=False)).state_dict()
    generator = torch.Generator().manual_seed(0)
    made = {
        name: torch.randn(one.shape, generator=generator) * 0.05
        for name, one in shapes.items()
        if name != "lm_head.weight"
    }
    return {name: one + 1 if "norm" in name else one for name, one in made.items()}


def build(given: dict[str, Tensor], wide: bool) -> MixtralForCausalLM:
    model = MixtralForCausalLM(config(wide))
    model.load_state_dict(given, strict=False)
    model.tie_weights()
    return model.eval()


@torch.no_grad()
def logits(model: MixtralForCausalLM | LlamaForCausalLM) -> Tensor:
    found: Tensor = model(TOKENS).logits
    return found


def test_all_forms_of_a_model_are_one_function(tmp_path: Path) -> None:
    given = weights()
    shuffled = smollm2.shuffle(given)
    wanted = logits(build(given, wide=False))
    assert not any(
        torch.equal(given[name], shuffled[name]) for name in given if ".gate.weight" not in name
    )
    torch.testing.assert_close(logits(build(shuffled, wide=False)), wanted)
    wide = build(smollm2.widen(shuffled), wide=True)
    torch.testing.assert_close(logits(wide), wanted, atol=1e-4, rtol=1e-4)

    wide.save_pretrained(tmp_path / "wide")
    smollm2.write_dense(tmp_path / "wide", tmp_path / "dense")
    dense = LlamaForCausalLM.from_pretrained(tmp_path / "dense").eval()
    torch.testing.assert_close(logits(dense), logits(wide))
    assert "num_local_experts" not in json.loads((tmp_path / "dense" / "config.json").read_text())


def file(path: Path, tensors: dict[str, np.ndarray], kind: str = "F32") -> GgufFile:
    """A GGUF file of float32 tensors, or of one other type's zeros."""
    infos = [TensorInfo(name, kind, one.shape) for name, one in tensors.items()]
    chunks = [
        TensorChunk(
            info.name,
            tensors[info.name].view(np.uint8).ravel()
            if kind == "F32"
            else np.zeros(info.nbytes, np.uint8),
        )
        for info in infos
    ]
    write_gguf(path, {}, infos, chunks)
    return read_gguf(path)


ROWS = np.arange(8, dtype=np.float32).reshape(8, 1)


@pytest.mark.parametrize(
    ("turned", "wanted"), [(True, [0, 2, 1, 3, 4, 6, 5, 7]), (False, [0, 1, 2, 3, 4, 5, 6, 7])]
)
def test_the_numbers_of_another_tool_are_put_into_our_file(
    tmp_path: Path, turned: bool, wanted: list[int]
) -> None:
    """Rows of q in llama.cpp's order, a dense layer as one expert, the tied embedding once."""
    theirs = file(
        tmp_path / "theirs.gguf",
        {"output.weight": ROWS, "blk.0.attn_q.weight": ROWS, "blk.0.ffn_up.weight": ROWS + 1},
    )
    empty = np.zeros_like(ROWS)
    ours = file(
        tmp_path / "ours.gguf",
        {"blk.0.ffn_up_exps.weight": empty[None], "blk.0.attn_q.weight": empty},
    )
    put_in(theirs, ours, turned, 4, tmp_path / "both.gguf")
    both = read_gguf(tmp_path / "both.gguf")
    assert both.data("blk.0.attn_q.weight").view(np.float32).tolist() == wanted
    assert both.data("blk.0.ffn_up_exps.weight").view(np.float32).tolist() == [*range(1, 9)]


def test_a_tensor_of_another_type_is_not_put_in(tmp_path: Path) -> None:
    """Equal bytes are what is compared: the tensor is named. The types are taken over from it."""
    rows = np.zeros((8, 32), np.float32)
    theirs = file(tmp_path / "theirs.gguf", {"blk.0.ffn_up.weight": rows}, "Q4_1")
    ours = file(tmp_path / "ours.gguf", {"blk.0.ffn_up_exps.weight": rows[None]}, "Q4_0")
    with pytest.raises(SystemExit, match=r"blk\.0\.ffn_up\.weight: Q4_1"):
        put_in(theirs, ours, False, 4, tmp_path / "both.gguf")
    recipe = same_types(theirs, "Q4_0")
    assert recipe.patterns == ((r"^blk\.0\.ffn_up(_exps)?\.weight$", "Q4_1"),)
