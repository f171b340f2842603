"""Gram matrices of a calibration: against the real model's inputs, exact, merged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_calibrate import corpus, documents_of
from torch import nn
from transformers import AutoModelForCausalLM

from secateur.api.statistics import merge as merge_api
from secateur.calibration.cost import cost_of
from secateur.calibration.device_gram_sums import DeviceGramSums
from secateur.calibration.gram_sums import GramSums
from secateur.calibration.layer_pass import calibrate
from secateur.calibration.shards import WHOLE, Shard
from secateur.calibration.token_sample import Sampling
from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.rows import Corpus
from secateur.errors import NumericError, StatisticsError
from secateur.forward.backends.base import Backend
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.backends.torch_device import TorchDevice
from secateur.forward.batches import ON_CPU
from secateur.statistics.file import save
from secateur.statistics.gram import GramKind, stored_sums, whole_matrix
from secateur.statistics.gram_file import GramFile, gram_path
from secateur.statistics.statistics import Statistics

TINY = Callable[[str], Checkpoint]
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def run(
    checkpoint: Checkpoint,
    rows: Corpus,
    path: Path,
    kind: GramKind = "shared",
    *,
    shard: Shard = WHOLE,
    backend: Backend | None = None,
    tokens: int = 0,
) -> GramFile:
    sampling = Sampling(0, gram=kind, gram_tokens=tokens, gram_file=gram_path(path))
    save(calibrate(checkpoint, rows, sampling=sampling, shard=shard, backend=backend), path)
    return GramFile(gram_path(path))


def matrices(file: GramFile, linear: str) -> NDArray[np.float64]:
    """float64 [M, C, C], symmetric, of a linear layer's inputs."""
    found = file.input(file.description.shared_by[linear])
    upper = np.stack([np.triu(whole_matrix(sums, found.columns)) for sums in found.sums])
    return upper + np.triu(upper, 1).swapaxes(1, 2)


def inputs_of_the_real_model(checkpoint: Checkpoint, rows: Corpus) -> dict[str, list[Any]]:
    """{linear layer: its inputs}, document by document, unmasked tokens only; the experts' `down`
    by (name, expert)."""
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float32).eval()
    seen: defaultdict[Any, list[torch.Tensor]] = defaultdict(list)
    counts: list[bool] = []

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, arguments: Any) -> None:
            flat = arguments[0].reshape(-1, arguments[0].shape[-1])
            seen[name].append(flat[torch.tensor(counts)])

        return hook

    def note_experts(name: str) -> Callable[..., None]:
        def hook(module: Any, arguments: Any) -> None:
            hidden, chosen, _ = arguments
            keep = torch.tensor(counts)
            seen[f"{name}.gate_up_proj"].append(hidden[keep])
            for expert in range(module.num_experts):
                mine = hidden[keep & (chosen == expert).any(-1)]
                inner = module._apply_gate(nn.functional.linear(mine, module.gate_up_proj[expert]))
                seen[f"{name}.down_proj", expert].append(inner)

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in LINEARS:
            module.register_forward_pre_hook(note(f"{name}.weight"))
        if name.endswith(".experts"):
            module.register_forward_pre_hook(note_experts(name))
    with torch.inference_mode():
        for _, _, ids, mask in documents_of(rows):
            counts[:] = mask
            model(torch.tensor([ids]))
    return seen


@pytest.mark.parametrize("kind", ["shared", "own"])
def test_they_are_those_of_the_real_models_inputs(
    kind: GramKind, tiny: TINY, tmp_path: Path
) -> None:
    checkpoint, rows = tiny("gemma4"), corpus()
    found = run(checkpoint, rows, tmp_path / "stats", kind)
    expected = inputs_of_the_real_model(checkpoint, rows)
    linears = {name for name in expected if isinstance(name, str)}
    inner = {name for name, _ in (one for one in expected if isinstance(one, tuple))}
    assert set(found.description.shared_by) == linears | (inner if kind == "own" else set())
    for name in linears:
        inputs = torch.cat(expected[name]).double()
        assert matrices(found, name)[0] == pytest.approx((inputs.T @ inputs).numpy(), abs=1e-3)
        assert found.input(found.description.shared_by[name]).tokens == [len(inputs)]
    for name in inner if kind == "own" else ():
        own = [torch.cat(expected[name, e]).double() for e in range(checkpoint.experts)]
        grams = np.stack([(one.T @ one).numpy() for one in own])
        tokens = [len(one) for one in own]
        assert matrices(found, name) == pytest.approx(grams, abs=1e-3)
        assert found.input(name).tokens.tolist() == tokens


def test_projections_of_one_input_share_a_matrix(tiny: TINY, tmp_path: Path) -> None:
    shared_by = run(tiny("gemma4"), corpus(), tmp_path / "stats").description.shared_by
    attention = "model.layers.0.self_attn."
    assert shared_by[f"{attention}k_proj.weight"] == f"{attention}q_proj.weight"
    assert shared_by[f"{attention}o_proj.weight"] == f"{attention}o_proj.weight"


@pytest.mark.parametrize("kind", ["shared", "own"])
def test_shards_merge_to_the_bytes_of_one_pass(kind: GramKind, tiny: TINY, tmp_path: Path) -> None:
    size = replace(ON_CPU, least=256, group=512)
    rows = corpus([("code", f"{n:02d}", 64) for n in range(24)])
    once = run(tiny("gemma4"), rows, tmp_path / "once", kind, backend=CpuBackend(1, size))
    assert {int(once.input(name).tokens.sum()) for name in outer_inputs(once)} == {rows.tokens}
    once = run(
        tiny("gemma4"), rows, tmp_path / "few", kind, backend=CpuBackend(1, size), tokens=400
    )
    parts = [tmp_path / f"part{n}" for n in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        run(
            tiny("gemma4"), rows, part, kind, shard=Shard(number, 3), backend=CpuBackend(3, size),
            tokens=400,
        )  # fmt: skip
    for number, order in enumerate(list(permutations(parts))[::2]):
        merge_api(order, tmp_path / f"merged{number}")
        assert gram_path(tmp_path / f"merged{number}").read_bytes() == once.path.read_bytes()


def outer_inputs(file: GramFile) -> list[str]:
    """Of all linear layers but the experts' `down`."""
    return [name for name in file.description.columns if "experts.down" not in name]


@pytest.mark.parametrize("device", ["cpu", "torch"])
def test_about_as_many_tokens_count_as_are_asked_for(
    device: str, tiny: TINY, tmp_path: Path
) -> None:
    """The same in every layer; all of them for the experts' `down`."""
    backend = CpuBackend(2) if device == "cpu" else TorchDevice(torch.device("cpu"))
    rows = corpus([("code", f"{n:02d}", 64) for n in range(24)])
    whole = run(tiny("gemma4"), rows, tmp_path / "whole", "own", backend=backend)
    few = run(tiny("gemma4"), rows, tmp_path / "few", "own", backend=backend, tokens=400)
    (count,) = {int(few.input(name).tokens.sum()) for name in outer_inputs(few)}
    assert abs(count - 400) < 4 * 400**0.5
    for name in whole.description.columns:
        there, here = matrices(whole, name), matrices(few, name)
        if name not in outer_inputs(few):
            assert np.array_equal(here, there)
            continue
        assert (np.linalg.eigvalsh(there - here) > -1e-3).all()  # the rest is of tokens too
        sizes = [np.trace(one[0]) / tokens for one, tokens in ((here, count), (there, rows.tokens))]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.3)


def test_merging_says_what_is_lost_and_refuses_what_does_not_fit(
    tiny: TINY, tmp_path: Path
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    run(tiny("gemma4"), corpus([("code", "a", 30)]), one, "shared")
    run(tiny("gemma4"), corpus([("code", "b", 30)], seed=4), other, "own")
    with pytest.raises(StatisticsError, match="of different kinds"):
        merge_api([one, other], tmp_path / "merged")
    gram_path(other).unlink()
    said: list[str] = []
    merge_api([one, other], tmp_path / "merged", on_message=said.append)
    assert any("no Gram matrices in the merged file" in text for text in said)
    assert not gram_path(tmp_path / "merged").exists()
    gram_path(one).rename(gram_path(other))
    with pytest.raises(StatisticsError, match="does not belong to"):
        merge_api([other, one], tmp_path / "again")


def test_skipped_tokens_leave_no_trace(broken: Checkpoint, tmp_path: Path) -> None:
    """A group with a broken token runs again: what it added at first must not count."""
    sampling = Sampling(0, gram="own", gram_file=tmp_path / "gram")
    found: Statistics = calibrate(broken, corpus(), sampling=sampling, skip_bad=True)
    assert found.skipped
    file = GramFile(tmp_path / "gram")
    for name, (squares, tokens) in found.importance().items():
        if name not in file.description.shared_by:
            continue  # a router
        diagonal = np.diagonal(matrices(file, name), axis1=1, axis2=2)
        if name.endswith("gate_up_proj"):  # every token goes to as many experts
            assert diagonal * broken.top_k == pytest.approx(squares.sum(0)[None], 1e-4, 1e-3)
            continue
        assert diagonal == pytest.approx(squares, rel=1e-4, abs=1e-3)
        assert (file.input(file.description.shared_by[name]).tokens == tokens).all()


def test_the_cost_is_said_beforehand(tiny: TINY, tmp_path: Path) -> None:
    checkpoint, rows = tiny("gemma4"), corpus()
    for kind in ("shared", "own"):
        cost = cost_of(checkpoint, rows, gram=kind)
        found = run(checkpoint, rows, tmp_path / kind, kind)
        assert cost.gram > 0
        numbers = [found.input(name).sums.nbytes for name in found.description.columns]
        assert cost.gram_bytes == sum(numbers)
        assert "Gram matrices take about" in cost.sentence()


def test_stored_sums_are_the_matrix() -> None:
    chance = np.random.default_rng(0)
    for columns in (5, 256, 300, 700):
        inputs = chance.standard_normal((50, columns))
        gram = inputs.T @ inputs
        upper = np.triu(whole_matrix(stored_sums(gram), columns))
        assert np.allclose(upper, np.triu(gram), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [0, 8, 300])
def test_a_damaged_file_is_one_line(size: int, tiny: TINY, tmp_path: Path) -> None:
    path = run(tiny("gemma4"), corpus(), tmp_path / "stats").path
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(StatisticsError, match="holds no Gram matrices") as caught:
        GramFile(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sums", [GramSums("shared"), DeviceGramSums("shared")])
@pytest.mark.parametrize("value", [1e9, float("nan")])
def test_inputs_that_are_too_large_are_refused(
    sums: GramSums | DeviceGramSums, value: float
) -> None:
    with pytest.raises(NumericError, match="--gram none"):
        sums.add_rows("layer.weight", torch.full((4, 8), value))
        sums.fetch()()


def test_sums_on_a_device_are_those_of_the_host_in_parts_too() -> None:
    """Of integers, whose products and sums are exact."""
    chance = torch.Generator().manual_seed(5)
    rows = torch.randint(-9, 9, (90, 300), generator=chance).float()
    counts = [30, 0, 25, 35]
    host, device, part = (
        kind("own", None, len(counts), "outer", "inner")
        for kind in (GramSums, DeviceGramSums, DeviceGramSums)
    )
    host.add_inner(rows, np.repeat(np.arange(len(counts)), counts))
    device.add_inner(rows[:30].to(torch.bfloat16), [30, 0, 0, 0])
    part.add_inner(rows[30:], [0, 0, 25, 35])
    part.add_rows("other", rows)
    device.merge(part)
    host.add_rows("other", rows)
    expected, got = host.fetch()(), device.fetch()()
    assert got.shared_by == expected.shared_by
    for name, one in expected.inputs.items():
        assert (got.inputs[name].sums == one.sums).all()
        assert (got.inputs[name].tokens == one.tokens).all()
        assert got.inputs[name].columns == one.columns
