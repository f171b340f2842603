"""The streamed forward: the whole model's logits, and the same bits however it keeps its state."""

from __future__ import annotations

import ctypes
import json
import operator
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_calibrate import corpus, documents_of
from tiny_models import FORMS, difference, load

from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.corpus.rows import Corpus
from secateur.errors import CheckpointError, FamilyError, WriteError
from secateur.forward import layer_calls
from secateur.forward.backends.base import Backend
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.batches import Group, MicroBatch, batch_documents, make_micro_batches
from secateur.forward.layer_calls import LayerCalls
from secateur.forward.stream import ForwardPass
from secateur.forward.weights import CheckpointWeights

TINY = Callable[[str], Checkpoint]
CPU = CpuBackend(2)


ON_DISK = CpuBackend(2, states_limit=0)
"""With `hidden_limit=0`: hidden states lie in a mapped file."""


def streamed(
    checkpoint: Checkpoint, rows: Corpus, backend: Backend = CPU, **options: Any
) -> dict[Any, torch.Tensor]:
    """{(row, document): logits of its tokens}"""
    found = {}
    hidden = checkpoint.family.number(checkpoint.config, "hidden")
    batches = make_micro_batches(rows.rows, hidden, backend.batch_size)
    with ForwardPass(CheckpointWeights(checkpoint), batches, backend, **options) as forward:
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

    assert same(streamed(tiny(form), rows, ON_DISK, hidden_limit=0))
    assert same(streamed(tiny(form), rows, CpuBackend(1)))
    monkeypatch.setattr(layer_calls, "CALLS_LIMIT", -1)
    assert same(streamed(tiny(form), rows))


def test_a_disk_without_room_for_hidden_states_is_one_sentence(tiny: TINY) -> None:
    """The system's limit of a file's size stands for the disk's end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(WriteError, match=r"the hidden states take .* in .*: set TMPDIR to a"):
            streamed(tiny("gemma4"), corpus(), ON_DISK, hidden_limit=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("form", ["gemma4", "qwen3_moe", "gpt_oss"])
def test_recorded_calls_count_all_that_they_hold(
    form: str, tiny: TINY, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotary tables come as tuples; they are counted, and those beyond the limit are not kept."""
    rows = corpus()
    checkpoint = tiny(form)
    batches = batch_documents(rows.rows, 64)
    with ForwardPass(CheckpointWeights(checkpoint), batches) as forward:
        hidden = [forward.hidden(batch) for batch in batches]
        device = torch.device("cpu")
        calls = LayerCalls(forward.model, batches, hidden, device)
        tables = [calls.of(batch, 0).kwargs["position_embeddings"] for batch in batches]
        nbytes = sum(table.nbytes for pair in tables for table in pair)
        assert nbytes > 0
        assert calls.held >= nbytes
        # One line of each table serves all documents of a micro-batch.
        assert all(len(table) == 1 for pair in tables for table in pair)
        monkeypatch.setattr(layer_calls, "CALLS_LIMIT", calls.held // 2)
        fewer = LayerCalls(forward.model, batches, hidden, device)
        assert fewer.held < calls.held
        assert 0 < len(fewer._kept) < len(batches)


@pytest.mark.parametrize("form", ["gemma4", "gpt_oss"])
def test_micro_batches_of_one_shape_share_what_their_layers_are_passed(
    form: str, tiny: TINY
) -> None:
    """Masks and rotary tables of a long corpus are a quarter of a gigabyte, and mostly the same."""
    rows = corpus()
    with ForwardPass(CheckpointWeights(tiny(form)), batch_documents(rows.rows, 64)) as forward:
        batches, device = forward.batches, torch.device("cpu")

        def record(*those: MicroBatch) -> LayerCalls:
            hidden = [forward.hidden(first)] * len(batches)
            return LayerCalls(forward.model, those, hidden, device)

        first, other = batches[:2]
        again = replace(first, index=other.index)
        one, both = record(first), record(first, again)
        assert both.held == one.held > 0
        for layer in range(2):
            tables, same = (
                both.of(batch, layer).kwargs["position_embeddings"] for batch in (first, again)
            )
            assert all(map(operator.is_, tables, same))
        # A mask of its own is kept beside the tables that are equal.
        mask = first.mask.clone()
        mask[0, 0] = False
        masked = replace(again, mask=mask, needs_mask=True)
        assert one.held < record(first, masked).held < one.held + record(masked).held


@pytest.mark.parametrize(("members", "workers", "most"), [(1, 2, 3), (2, 2, 2), (2, 1, 2)])
def test_as_many_groups_are_on_their_way_as_keep_the_workers_busy(
    members: int, workers: int, most: int, tiny: TINY
) -> None:
    """Each of them holds some five times its hidden states."""
    batches = batch_documents(corpus().rows, 1)
    starts = range(0, len(batches), members)
    groups = [batches[start : start + members] for start in starts]
    assert len(groups) > most
    begun: list[int] = []
    on_their_way = []

    def observe(group: Group) -> None:
        begun.append(1)
        on_their_way.append(sum(begun))

    source = CheckpointWeights(tiny("mixtral"))
    with (
        ForwardPass(source, batches, CpuBackend(workers), groups=groups) as forward,
        forward.load_layer(0) as module,
    ):
        forward.run(module, 0, observe, lambda _: begun.append(-1))
    assert max(on_their_way) == most


def test_a_forward_pass_changes_no_setting_of_the_process(
    tiny: TINY, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thresholds of malloc cannot be taken back: the command line sets them, a pass does not."""

    def refuse(*_: object) -> None:
        raise AssertionError("the allocator was changed")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    threads = torch.get_num_threads()
    streamed(tiny("mixtral"), corpus())
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("key", "value"),
    [("router_aux_loss_coef", 0), ("hidden_act", "no_such"), ("rms_norm_eps", "small")],
)
def test_a_config_that_transformers_refuses_is_one_sentence(
    key: str, value: object, tiny: TINY, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny("qwen3_moe").path, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(
        CheckpointError, match=r"config\.json is refused by transformers \d"
    ) as caught:
        streamed(open_checkpoint(folder), corpus())
    assert "\n" not in str(caught.value)


def test_a_pass_that_cannot_begin_leaves_nothing_behind(tiny: TINY) -> None:
    class Broken(CheckpointWeights):
        def tensor(self, name: str) -> torch.Tensor:
            raise FamilyError(f"{name} cannot be read")

    checkpoint, batches = tiny("mixtral"), make_micro_batches(corpus().rows, 32)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(FamilyError), ForwardPass(Broken(checkpoint), batches, CpuBackend(2)):
            pass
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
