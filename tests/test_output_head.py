"""Logits in slices of the vocabulary: the numbers of one product, and no head widened whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_calibrate import corpus
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from secateur.checkpoint.reader import open_checkpoint
from secateur.forward import output_head
from secateur.forward.batches import make_micro_batches
from secateur.forward.output_head import OutputHead
from secateur.forward.stream import ForwardPass
from secateur.forward.weights import CheckpointWeights


class LargestResult(TorchDispatchMode):
    """Remembers how many bytes the largest result of any operation has."""

    nbytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        sizes = [leaf.nbytes for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.nbytes = max([self.nbytes, *sizes])
        return result


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_slices_give_what_one_product_gives(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_head, "SLICE_ELEMENTS", 256 * 64)
    chance = torch.Generator().manual_seed(0)
    weight = torch.randn(1000, 64, generator=chance).to(dtype)
    hidden = torch.randn(1, 7, 64, generator=chance)
    expected = torch.nn.functional.linear(hidden, weight.float())
    torch.testing.assert_close(OutputHead(weight)(hidden), expected)


def test_no_operation_widens_the_whole_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_head, "SLICE_ELEMENTS", 1 << 17)
    checkpoint = open_checkpoint("gemmule")
    batches = make_micro_batches(corpus().rows, 256)
    with ForwardPass(CheckpointWeights(checkpoint), batches) as forward:
        whole = forward.model.get_input_embeddings().weight.numel()
        with LargestResult() as largest, forward.load_head():
            logits = forward.logits(batches[0], torch.arange(3))
    assert logits.shape == (3, 4096)
    # The embedding in 16 bits is a view of its file.
    assert largest.nbytes <= 2 * whole
