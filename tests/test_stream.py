"""The streamed forward: the whole model's logits, and the same bits however it keeps its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_calibrate import corpus, documents_of
from tiny_models import FORMS, difference, load

from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.rows import Corpus
from secateur.forward import layer_calls
from secateur.forward.batches import make_micro_batches
from secateur.forward.stream import ForwardPass
from secateur.forward.weights import CheckpointWeights

TINY = Callable[[str], Checkpoint]


def streamed(checkpoint: Checkpoint, rows: Corpus, **options: Any) -> dict[Any, torch.Tensor]:
    """{(row, document): logits of its tokens}"""
    options = {"workers": 2, **options}
    found = {}
    batches = make_micro_batches(rows.rows, checkpoint.family.number(checkpoint.config, "hidden"))
    with ForwardPass(CheckpointWeights(checkpoint), batches, **options) as forward:
        for layer in range(checkpoint.layers):
            with forward.load_layer(layer) as module:
                forward.run(module, layer)
        with forward.load_head():
            for batch in forward.batches:
                length = batch.input_ids.shape[1]
                for number, line in enumerate(batch.lines):
                    where = torch.arange(line.stop - line.start) + number * length
                    found[line.row, line.document] = forward.logits(batch, where)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_streamed_logits_are_the_whole_models(form: str, tiny: TINY) -> None:
    rows = corpus()
    found = streamed(tiny(form), rows)
    model = load(tiny(form).path)
    keys = [(n, d) for n, row in enumerate(rows.rows) for d in range(len(row.samples))]
    for key, (_, _, ids, _) in zip(keys, documents_of(rows), strict=True):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        assert found[key].shape == expected.shape
        assert difference(found[key], expected) <= 2e-5


@pytest.mark.parametrize("form", ["gemma4", "gpt_oss"])
def test_where_the_state_is_kept_changes_no_bit(
    form: str, tiny: TINY, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = corpus()
    once = streamed(tiny(form), rows)

    def same(other: dict[Any, torch.Tensor]) -> bool:
        return other.keys() == once.keys() and all(torch.equal(other[k], once[k]) for k in once)

    assert same(streamed(tiny(form), rows, hidden_limit=0))
    assert same(streamed(tiny(form), rows, workers=1))
    monkeypatch.setattr(layer_calls, "CALLS_LIMIT", -1)
    assert same(streamed(tiny(form), rows))
