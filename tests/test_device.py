"""The torch-device backend, on the CPU or on a GPU where there is one, and what it agrees with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from pretend_devices import FIRST, SECOND, PretendDevices
from test_calibrate import as_bytes, corpus, documents_of
from test_stream import streamed
from tiny_models import FORMS, difference, load, save_tiny
from torch import nn

from secateur.calibration.layer_pass import calibrate
from secateur.calibration.observers.sample_norms import SAMPLE_NORMS
from secateur.calibration.shards import Shard
from secateur.calibration.token_sample import Sampling
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.checkpoint.shared_model import share_model
from secateur.errors import EngineError, NumericError, RequestError
from secateur.evaluation.tokens.generate import Generation, generate_answers
from secateur.evaluation.tokens.prompts import Prompt, PromptSet
from secateur.evaluation.tokens.teacher import teach
from secateur.forward.backends.base import Backend
from secateur.forward.backends.choose import (
    choose_backend,
    places_for_all_layers,
    product_type,
    share_layers,
)
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.backends.grouped_products import GroupedProducts, multiply_in_loop
from secateur.forward.backends.memory import fit_memory
from secateur.forward.backends.torch_device import KEPT_SHARE, TorchDevice
from secateur.forward.batches import Group
from secateur.forward.weights import CheckpointWeights
from secateur.statistics.merge import merge
from secateur.statistics.sample_file import SampleFile
from secateur.system.device_names import first_gpus, read_device

TINY = Callable[[str], Checkpoint]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_DEVICE = TorchDevice(DEVICE)
SMALL = TorchDevice(DEVICE, batch_size=replace(ON_DEVICE.batch_size, most=256, least=256))
"""Micro-batches of 256 tokens, so that a short corpus has several."""


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_the_whole_models(form: str, tiny: TINY) -> None:
    rows = corpus()
    found = streamed(tiny(form), rows, ON_DEVICE)
    model = load(tiny(form).path)
    keys = [(n, d) for n, row in enumerate(rows.rows) for d in range(len(row.samples))]
    for key, (_, _, ids, _) in zip(keys, documents_of(rows), strict=True):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        assert difference(found[key].cpu(), expected) <= 2e-5


@pytest.mark.parametrize("form", ["gemma4", "qwen3_moe", "gpt_oss", "deepseek_v3"])
def test_statistics_are_those_of_the_cpu_up_to_rounding(form: str, tiny: TINY) -> None:
    options: dict[str, Any] = {"sampling": Sampling(64), "observers": [SAMPLE_NORMS]}
    ours = calibrate(tiny(form), corpus(), backend=ON_DEVICE, **options)
    cpu = calibrate(tiny(form), corpus(), **options)
    assert ours.devices == (ON_DEVICE.name,)
    assert ours.arrays.keys() == cpu.arrays.keys()
    for name, expected in cpu.arrays.items():
        assert ours.arrays[name].shape == expected.shape
        assert ours.arrays[name].dtype == expected.dtype
    for layer in cpu.layers:
        assert np.array_equal(ours.count(layer), cpu.count(layer))
        for name in (*cpu.sums, "rerouted.pooled.errors", "rerouted.pooled.scores"):
            if cpu.sums.get(name) != "count":
                assert ours.array(layer, name) == pytest.approx(
                    cpu.array(layer, name), rel=2e-4, abs=1e-5, nan_ok=True
                )
    for name, (squares, tokens) in cpu.importance().items():
        assert np.array_equal(ours.importance()[name][1], tokens)
        assert ours.importance()[name][0] == pytest.approx(squares, rel=1e-4)


def test_merged_shards_are_one_pass_to_the_byte(tiny: TINY, tmp_path: Path) -> None:
    whole = corpus([("code", f"{n:02d}", 64) for n in range(28)])
    options: dict[str, Any] = {"sampling": Sampling(0), "backend": SMALL}
    once = calibrate(tiny("gemma4"), whole, **options)
    parts = [calibrate(tiny("gemma4"), whole, shard=Shard(n, 3), **options) for n in (1, 2, 3)]
    merged = merge(merge(parts[2], parts[0]), parts[1])
    assert as_bytes(merged, tmp_path) == as_bytes(once, tmp_path)


@pytest.mark.slow
def test_a_part_has_the_same_documents_on_a_device_with_less_memory(
    tiny: TINY, tmp_path: Path
) -> None:
    whole = corpus([("code", f"{n:02d}", 64) for n in range(28)])
    once = calibrate(tiny("gemma4"), whole, sampling=Sampling(50), backend=SMALL)
    little = replace(SMALL, batch_size=replace(SMALL.batch_size, fits=100))
    kept = [tmp_path / f"{n}.safetensors" for n in (1, 2, 3)]
    parts = [
        calibrate(
            tiny("gemma4"),
            whole,
            sampling=Sampling(50, keep=path),
            shard=Shard(n, 3),
            backend=little if n == 2 else SMALL,
        )
        for n, path in enumerate(kept, 1)
    ]
    merged = merge(merge(parts[2], parts[0]), parts[1])
    assert [dict(one) for one in merged.samples] == [dict(one) for one in once.samples]
    assert merged.tokens == once.tokens and not merged.shards
    assert sum(len(SampleFile(path).keys.hash) for path in kept) == 50
    for layer in once.layers:
        assert merged.array(layer, "gate_norm") == pytest.approx(once.array(layer, "gate_norm"))


def test_a_damaged_weight_is_one_sentence(broken: Checkpoint) -> None:
    with pytest.raises(NumericError, match=r"layer 1 gave NaN or infinity for row \d+, token"):
        calibrate(broken, corpus(), sampling=Sampling(0), backend=SMALL)


def test_broken_tokens_are_left_out_as_on_the_cpu(broken: Checkpoint) -> None:
    options: dict[str, Any] = {"sampling": Sampling(0), "skip_bad": True}
    cpu = calibrate(broken, corpus(), **options)
    ours = calibrate(broken, corpus(), backend=SMALL, **options)
    assert ours.skipped == cpu.skipped > 0
    for layer in cpu.layers:
        assert np.array_equal(ours.count(layer), cpu.count(layer))
        assert ours.array(layer, "gate_norm") == pytest.approx(
            cpu.array(layer, "gate_norm"), rel=1e-4
        )


class Full(TorchDevice):
    """A device with memory for micro-batches of 1024 tokens."""

    @contextmanager
    def start(self, groups: Sequence[Group]) -> Iterator[Any]:
        if max(batch.input_ids.numel() for group in groups for batch in group) > 1024:
            raise torch.OutOfMemoryError
        with super().start(groups) as session:
            yield session


@pytest.mark.slow
def test_out_of_memory_means_smaller_micro_batches_and_is_said_once(
    tiny: TINY, tmp_path: Path
) -> None:
    rows = corpus([("code", f"{n:02d}", 64) for n in range(20)])
    said: list[str] = []

    def run(backend: Backend) -> bytes:
        found = calibrate(tiny("gemma4"), rows, sampling=Sampling(0), backend=backend)
        return as_bytes(found, tmp_path)

    large, size = (replace(ON_DEVICE.batch_size, most=n, least=n) for n in (2048, 1024))
    expected = run(TorchDevice(DEVICE, batch_size=size))
    assert fit_memory(Full(DEVICE, batch_size=large), run, said.append) == expected
    assert len(said) == 1
    assert "again, with smaller micro-batches" in said[0]
    with pytest.raises(EngineError, match="too little memory for 512 tokens of one layer"):
        fit_memory(Full(DEVICE), run_out, said.append)


def test_memory_that_the_cpu_lacks_is_no_error_of_torch() -> None:
    def work(_: Backend) -> torch.Tensor:
        return torch.empty(1 << 46)

    with pytest.raises(MemoryError):
        fit_memory(CpuBackend(1), work, print)
    with pytest.raises(EngineError, match="cpu has too little memory for 512 tokens"):
        fit_memory(TorchDevice(torch.device("cpu")), work, lambda said: None)
    with pytest.raises(RuntimeError, match="shape"):
        fit_memory(CpuBackend(1), lambda _: torch.zeros(4).view(3), print)


def run_out(_: Backend) -> None:
    raise torch.OutOfMemoryError


class Narrow(TorchDevice):
    """A device with memory to answer so many prompts at once."""

    prompts = 4

    @contextmanager
    def run_alone(self, model: Any, routers: Sequence[nn.Module]) -> Iterator[None]:
        def refuse(_: nn.Module, args: Any, kwargs: Any) -> None:
            if len(kwargs["input_ids"]) > self.prompts:
                raise torch.OutOfMemoryError

        hook = model.register_forward_pre_hook(refuse, with_kwargs=True)
        with super().run_alone(model, routers):
            yield
        hook.remove()


def test_answers_that_do_not_fit_together_are_made_in_pieces_and_it_is_said_once(
    tiny: TINY, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = PromptSet(
        tuple(Prompt(f"p{n}", "a", "answers", tuple(range(4, 9))) for n in range(18)), {}
    )
    said: list[tuple[Any, ...]] = []

    def ask(backend: Backend, name: str) -> Any:
        return generate_answers(
            tiny("gemma4"), asked, tmp_path / name, stop_ids=frozenset(), backend=backend,
            settings=Generation(max_new_tokens=3), progress=lambda *step: said.append(step),
        ).answers  # fmt: skip

    expected = ask(ON_DEVICE, "at once")
    said.clear()
    assert ask(Narrow(DEVICE), "in pieces") == expected
    assert sum("out of memory: again, with fewer answers" in step[0] for step in said) == 1
    counted = [step[1] for step in said if step[0] == "answers"]
    assert counted == sorted(counted) and counted[-1] == 18 * 3
    monkeypatch.setattr(Narrow, "prompts", 0)
    with pytest.raises(EngineError, match="too little memory for one of the answers: free some"):
        ask(Narrow(DEVICE), "never")


@pytest.mark.parametrize(
    "word", ["gpu", "cuda:x", "cpu:0", "", "cpu,cpu", "cuda:0,cpu", "cuda,cuda:1", "cuda:0,"]
)
def test_another_word_is_refused(word: str) -> None:
    with pytest.raises(RequestError, match="expected auto, cpu, cuda, cuda:N, several such as"):
        read_device(word)


def test_several_gpus_are_named_in_order_and_once() -> None:
    assert read_device("cuda:2,cuda:0") == ("cuda", (2, 0))
    assert read_device(first_gpus(3)) == ("cuda", (0, 1, 2))
    assert read_device(first_gpus(1)) == read_device("cuda:0")
    with pytest.raises(RequestError, match="the same GPU twice"):
        read_device("cuda:1,cuda:01")


def spread(*devices: torch.device) -> TorchDevice:
    """Small micro-batches, and one way to multiply, so that bytes can be compared."""
    made = replace(share_layers(devices), batch_size=SMALL.batch_size)
    return replace(made, _products=cast(GroupedProducts, multiply_in_loop))


@pytest.mark.parametrize("form", ["gemma4", "gpt_oss", "deepseek_v3"])
def test_devices_that_share_the_layers_give_the_bytes_of_one(
    form: str, tiny: TINY, tmp_path: Path
) -> None:
    """On two that pretend, where an operation on tensors of both is an error."""
    model, rows = tiny(form), corpus([("code", f"{n:02d}", 64) for n in range(6)])
    with PretendDevices():
        one = calibrate(model, rows, sampling=Sampling(64), backend=spread(FIRST))
    with PretendDevices() as pretended:
        both = spread(FIRST, SECOND)
        assert [both.of_layer(n).device for n in range(3)] == [FIRST, SECOND, FIRST]
        two = calibrate(model, rows, sampling=Sampling(64), backend=both)
    assert pretended.moved and two.devices == ("xpu",)
    assert as_bytes(two, tmp_path) == as_bytes(one, tmp_path)


def test_a_model_whose_layers_are_shared_answers_as_on_one_device(
    tiny: TINY, tmp_path: Path
) -> None:
    asked = tuple(Prompt(f"p{n}", "code", "answers", tuple(range(4, 8 + n))) for n in range(3))

    def ask(name: str, backend: Backend) -> tuple[Any, Any]:
        made = generate_answers(
            tiny("gemma4"), PromptSet(asked, {}), tmp_path / name, stop_ids=frozenset(),
            settings=Generation(max_new_tokens=5), backend=backend,
        )  # fmt: skip
        return made.answers, teach(CheckpointWeights(tiny("gemma4")), "it", made, backend=backend)

    with PretendDevices():
        answers, teacher = ask("one", spread(FIRST))
    with PretendDevices() as pretended:
        found, taught = ask("two", spread(FIRST, SECOND))
    assert pretended.moved and found == answers
    assert np.array_equal(taught.actual, teacher.actual)


@pytest.mark.parametrize("room", [True, False])
def test_a_model_that_is_run_again_stays_where_there_is_room_for_it(
    room: bool, tiny: TINY, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the worker that makes parts: the second one reads no layer again."""
    shared, rows = share_model(tiny("gemma4")), corpus([("code", f"{n}", 64) for n in range(6)])
    model, read = shared.open(), []
    experts = CheckpointWeights.experts
    monkeypatch.setattr(
        CheckpointWeights, "experts", lambda self, name: read.append(name) or experts(self, name)
    )
    half = int(model.nbytes / 2 / KEPT_SHARE)
    monkeypatch.setattr(TorchDevice, "free_memory", lambda _: half + 1 if room else half - 1000)
    made = []
    with PretendDevices():
        for _ in range(2):
            found = calibrate(model, rows, sampling=Sampling(0), backend=spread(FIRST, SECOND))
            made.append(as_bytes(found, tmp_path))
    assert made[0] == made[1]
    assert len(read) == len(set(read)) * (1 if room else 2)
    assert tiny("gemma4").placed is None


def test_memory_of_devices_that_share_layers_is_that_of_the_fullest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = {FIRST: 30, SECOND: 10}
    monkeypatch.setattr(TorchDevice, "free_memory", lambda backend: free[backend.device])
    assert spread(FIRST, SECOND).free_memory() == 20
    assert spread(FIRST).free_memory() == 30


def test_auto_takes_all_gpus_for_a_whole_model_that_one_has_no_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpus = [torch.device("cuda", number) for number in range(2)]
    one, all_of_them, cpu = places_for_all_layers("auto", 3)
    assert (one.device, one.layers_ahead) == (gpus[0], 1)
    assert [all_of_them.of_layer(layer).device for layer in range(3)] == [*gpus, gpus[0]]
    assert cpu == CpuBackend(3)
    assert [place.device for place in places_for_all_layers("cuda:1")] == gpus[1:]
    assert [place.device.type for place in places_for_all_layers("cpu")] == ["cpu"]


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(RequestError, match="sees .* CUDA devices here: name another"):
        choose_backend("cuda:99")
    assert choose_backend("cpu", workers=3) == CpuBackend(3)


def test_answers_and_probabilities_are_the_cpus(tiny: TINY, tmp_path: Path) -> None:
    """Greedy answers of a float32 model are the same; probabilities differ by rounding."""
    checkpoint = tiny("gemma4")
    asked = [Prompt(f"p{n}", "code", "answers", tuple(range(4, 8 + n))) for n in range(3)]
    made = [
        generate_answers(
            checkpoint, PromptSet(tuple(asked), {}), tmp_path / one.name, stop_ids=frozenset(),
            settings=Generation(max_new_tokens=5), backend=one,
        )
        for one in (CpuBackend(), ON_DEVICE)
    ]  # fmt: skip
    assert made[0].answers == made[1].answers
    source = CheckpointWeights(checkpoint)
    cpu, ours = (teach(source, "it", made[0], backend=one) for one in (CpuBackend(), ON_DEVICE))
    assert np.allclose(cpu.actual, ours.actual, atol=1e-4)
    assert cpu.sha256 != ours.sha256 or ON_DEVICE.name == "cpu"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_grouped_product_is_the_loops(dtype: torch.dtype) -> None:
    chance = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 32, generator=chance).to(DEVICE, dtype)
    stored = torch.randn(4, 16, 32, generator=chance).to(DEVICE, dtype)
    ends = torch.tensor([7, 7, 30, 40], dtype=torch.int32, device=DEVICE)  # one expert has none
    loop = multiply_in_loop(rows, stored.mT, ends)
    assert difference(GroupedProducts()(rows, stored.mT, ends).float(), loop.float()) < 1e-2
    wide = multiply_in_loop(rows.float(), stored.mT, ends)
    assert difference(loop.float(), wide) < 1e-2


def test_sixteen_bit_products_are_near_the_cpus(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny("gemma4", tmp_path / "model", dtype=torch.bfloat16))
    assert product_type(checkpoint) == torch.bfloat16
    cpu = calibrate(checkpoint, corpus(), sampling=Sampling(0))
    backend = replace(ON_DEVICE, dtype=torch.bfloat16)
    ours = calibrate(checkpoint, corpus(), sampling=Sampling(0), backend=backend)
    for layer in cpu.layers:
        moved = np.abs(ours.count(layer) - cpu.count(layer)).sum() / 2
        assert moved <= 0.1 * cpu.count(layer).sum()  # tokens that rounding sends elsewhere
        for name in ("norm", "gate_norm"):
            assert ours.array(layer, name).sum() == pytest.approx(
                cpu.array(layer, name).sum(), rel=0.05
            )
