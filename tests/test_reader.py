"""Opening a checkpoint: headers first, bytes when asked for, and no torch on the way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from tiny_models import FORMS, save_tiny

from secateur.checkpoint.reader import SINGLE, Checkpoint, open_checkpoint
from secateur.checkpoint.tensors import NamedTensor, to_float32
from secateur.errors import CheckpointError

TINY = Callable[[str], Checkpoint]


@pytest.mark.parametrize("form", FORMS)
def test_tensors_are_those_that_safetensors_reads(form: str, tiny: TINY) -> None:
    checkpoint = tiny(form)
    expected = safetensors.numpy.load_file(checkpoint.path / SINGLE)
    assert set(checkpoint.specs) == set(expected)
    for tensor in map(checkpoint.read, checkpoint.specs):
        np.testing.assert_array_equal(tensor.array, expected[tensor.name])
    assert checkpoint.nbytes == sum(array.nbytes for array in expected.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_numbers_are_exact_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    import safetensors.torch

    checkpoint = open_checkpoint(save_tiny("mixtral", tmp_path / "model", dtype=dtype))
    expected = safetensors.torch.load_file(checkpoint.path / SINGLE)
    for tensor in map(checkpoint.read, checkpoint.specs):
        wanted = expected[tensor.name].float().numpy()
        np.testing.assert_array_equal(to_float32(tensor), wanted)


def test_shards_make_no_difference(tiny: TINY, tmp_path: Path) -> None:
    one = tiny("gemma4")
    many = open_checkpoint(save_tiny("gemma4", tmp_path / "model", shard_size="30KB"))
    assert len({spec.path for spec in many.specs.values()}) > 3
    assert set(one.specs) == set(many.specs)
    for name in one.specs:
        assert one.read(name).array.tobytes() == many.read(name).array.tobytes()


def test_types_without_plain_numbers_are_refused() -> None:
    with pytest.raises(CheckpointError, match="dequantize the checkpoint to 16 bits"):
        to_float32(NamedTensor("norm", "I8", np.zeros(4, np.int8)))


def test_a_shard_cut_after_opening_is_noticed(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny("mixtral", tmp_path / "model"))
    last = max(checkpoint.specs.values(), key=lambda spec: spec.offset)
    with last.path.open("r+b") as file:
        file.truncate(last.offset + 1)
    with pytest.raises(CheckpointError, match=f"ends inside tensor '{last.name}'"):
        checkpoint.read(last.name)


def test_looking_at_a_checkpoint_imports_no_torch(tiny: TINY) -> None:
    code = (
        "import sys\n"
        "from secateur.checkpoint.reader import open_checkpoint\n"
        "from secateur.pruning.expert_slices import select_experts\n"
        "from secateur.checkpoint.writer import lay_out\n"
        "c = open_checkpoint(sys.argv[1])\n"
        "lay_out(select_experts(c, dict.fromkeys(c.moe_layers, range(4))))\n"
        "print('torch' in sys.modules or 'transformers' in sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tiny("gemma4").path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert result.stdout == "False\n"
