"""Probabilities over bins: against float64, in any block, from any thread."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_divergence import Perturbed, Tiny, some_answers
from torch import Tensor

from secateur.evaluation.scores import score
from secateur.evaluation.tokens import teacher_forced
from secateur.evaluation.tokens.teacher import Bins, bins, teach
from secateur.evaluation.tokens.teacher_forced import Chunk, split_chunk

VOCAB, KEPT = 5003, 32


def some_logits(count: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, the ids asked for, and the tokens that are there."""
    made = torch.Generator().manual_seed(count)
    logits = scale * torch.randn(count, VOCAB, generator=made)
    ids = torch.topk(logits + torch.randn(count, VOCAB, generator=made), KEPT).indices
    return logits, ids, torch.randint(VOCAB, (count,), generator=made)


def exact(logits: Tensor, ids: Tensor, target: Tensor) -> Bins:
    """The same in float64 alone."""
    log_probs = logits.double().log_softmax(-1)
    others = log_probs.scatter(-1, ids, -torch.inf).logsumexp(-1)
    return Bins(
        log_probs.gather(-1, ids), others, log_probs.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    )


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0, 300.0])
def test_bins_are_those_of_float64(scale: float) -> None:
    """The last scale leaves so little outside the top that float32 cannot hold it."""
    given = some_logits(40, scale)
    for found, expected in zip(bins(*given), exact(*given), strict=True):
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found.double(), expected, rtol=2e-7, atol=5e-7)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_tokens_bins_depend_on_no_other_token(threads: int) -> None:
    given = some_logits(23, 8.0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = bins(*given)
        for size in (1, 3, 8):
            parts = zip(*(part.split(size) for part in given), strict=True)
            found = Bins(*map(torch.cat, zip(*(bins(*part) for part in parts), strict=True)))
            assert all(torch.equal(one, other) for one, other in zip(found, whole, strict=True))
    finally:
        torch.set_num_threads(before)


def test_a_chunk_is_split_without_loss() -> None:
    count = 7
    chunk = Chunk(
        np.arange(count),
        np.arange(count) + 10,
        torch.arange(count),
        np.arange(count)[:, None, None],
    )
    logits = torch.arange(count * (1 << 18), dtype=torch.float32).reshape(count, -1)
    parts = list(split_chunk(chunk, logits))
    assert [len(some) for _, some in parts] == [2, 2, 2, 1]  # of a mebibyte each
    assert torch.equal(torch.cat([some for _, some in parts]), logits)
    for number, field in enumerate(chunk):
        joined = np.concatenate([np.asarray(part[number]) for part, _ in parts])
        assert np.array_equal(joined, np.asarray(field))


def test_the_size_of_blocks_changes_no_number(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what the original says, nor the scores of an artefact."""
    answers = some_answers(4)
    one, other = (Perturbed(tiny("gemma4"), noise) for noise in (0.0, 0.1))
    found = []
    for size in (1, 1 << 30):
        monkeypatch.setattr(teacher_forced, "_BLOCK_BYTES", size)
        teacher = teach(one, "original", answers, top_k=8)
        arrays = {name: getattr(teacher, name) for name in ("top_ids", "top", "rest", "actual")}
        found.append({**arrays, **score(teacher, other, "it", answers).arrays})
    assert len(found[0]) > 8
    for name, values in found[0].items():
        assert np.array_equal(values, found[1][name]), name
