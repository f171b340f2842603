"""Codes chosen with feedback on a GPU, or on one that is pretended where there is none: those that
the cores choose; who chose is in the files' records, and no file is of two choosers."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretend_triton import triton_or_pretended
from test_feedback_outputs import RECIPES, model, observed, write  # noqa: F401 - fixtures

import secateur
from secateur import Formats, Pruning
from secateur.api.choosing import find_chooser
from secateur.api.grams import load_gram
from secateur.api.models import load_statistics
from secateur.checkpoint.reader import Checkpoint
from secateur.cluster.running import Running
from secateur.errors import EngineError, OutputError
from secateur.formats.ggml.codec import encode
from secateur.formats.mlx.codec import mlx_type, quantize
from secateur.forward.backends import choose as backends
from secateur.forward.backends.torch_device import TorchDevice
from secateur.outputs.apply import CheckedPlan, check_plan
from secateur.outputs.feedback import ON_CORES
from secateur.planning.checks import PlanSources
from secateur.planning.document import Plan
from secateur.release.manifest import read_manifest
from secateur.rounding.factor import Factor, factorize
from secateur.rounding.feedback import choose
from secateur.rounding.ggml_grids import GGML_GRIDS
from secateur.rounding.grid import Choices, Levels
from secateur.rounding.mlx_grids import MlxGrid

with triton_or_pretended():
    from secateur.rounding import device_feedback
    from secateur.rounding.device_feedback import DeviceChooser, try_chooser

    DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    CHOOSER = try_chooser(DEVICE)
    assert isinstance(CHOOSER, DeviceChooser), CHOOSER

NAME = "cuda: Pretended"
Given = tuple[Any, Choices, Levels, Factor]


def given(kind: str, columns: int, rows: int = 19) -> Given:
    """What a chooser is given for random rows of a type, over inputs that go together."""
    chance = np.random.default_rng(columns)
    mixing = np.eye(columns) + chance.standard_normal((columns, columns)) / columns**0.5
    inputs = chance.standard_normal((3 * columns, columns)) @ mixing
    weights = (chance.standard_normal((rows, columns)) * 0.02).astype(np.float32)
    grid: Any
    encoded: Any
    if kind in GGML_GRIDS:
        grid = GGML_GRIDS[kind]
        encoded = encode(weights, kind, np.ones(columns, np.float32))
    else:
        grid = MlxGrid(mlx_type(kind), "F32")
        encoded = quantize(weights, grid.kind, "F32")
    factor = factorize(inputs.T @ inputs, grid.groups, len(inputs))
    assert factor is not None
    return weights, grid.choices(encoded, columns), grid.levels, factor


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("Q4_K", 256),  # offsets, groups of 32
        ("Q2_K", 256),  # groups of 16
        ("Q3_K", 256),  # no offsets
        ("Q4_0", 96),  # a block that is not full
        ("Q8_0", 64),
        ("IQ4_NL", 160),  # levels that are not one apart
        ("MXFP4", 64),
        ("affine-4-64", 192),
        ("affine-3-128", 256),  # a group longer than a block
        ("affine-8-32", 64),  # one scale, nothing to try
        ("mxfp4", 96),
    ],
)
def test_codes_are_those_that_the_cores_choose(kind: str, columns: int) -> None:
    rows, choices, levels, factor = work = given(kind, columns)
    codes, scales = CHOOSER(*work)
    expected, their_scales = choose(*work)
    assert codes.dtype == np.uint8 and codes.shape == rows.shape
    # Sums in another order may turn a tie, and with it what follows in its row.
    assert (codes != expected).mean() < 0.01
    for mine, theirs, tried in zip(scales, their_scales, choices, strict=True):
        assert (mine != theirs).mean() < 0.02
        assert (mine == tried).any(0).all()
    assert len(np.unique(codes)) > len(levels.values) // 2


def test_a_row_depends_on_no_other_row_nor_thread() -> None:
    rows, choices, levels, factor = given("Q4_0", 96, 40)

    def part(where: slice) -> tuple[Any, Any]:
        some = Choices(choices.scale[:, where], choices.offset[:, where])
        return CHOOSER(rows[where], some, levels, factor)

    codes, scales = part(slice(None))
    wheres = [slice(first, first + size) for first in range(0, 40, 7) for size in (1, 20)]
    with ThreadPoolExecutor(4) as pool:
        for where, (some, its_scales) in zip(wheres, pool.map(part, wheres), strict=True):
            assert np.array_equal(some, codes[where])
            assert np.array_equal(its_scales.scale, scales.scale[where])


def test_a_factor_leaves_the_device_when_nobody_holds_it() -> None:
    chooser = DeviceChooser(DEVICE)
    first, second = given("Q4_0", 64), given("Q4_0", 96)
    for work in (first, second, first):
        chooser(*work)
    assert len(chooser._factors) == 2
    del first, work
    gc.collect()
    assert len(chooser._factors) == 1


class Full:
    """A kernel that has no memory for the first calls."""

    def __init__(self, chooser: DeviceChooser, calls: int) -> None:
        self.kernel, self.calls = chooser._kernel, calls

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        self.calls -= 1
        if self.calls >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        launch: Callable[..., None] = self.kernel[grid]
        return launch


def test_too_little_memory_is_tried_again_and_then_one_sentence() -> None:
    work = given("Q4_0", 64)
    expected, _ = CHOOSER(*work)
    chooser = DeviceChooser(DEVICE)
    chooser._kernel = Full(chooser, 1)
    codes, _ = chooser(*work)
    assert np.array_equal(codes, expected)
    chooser._kernel = Full(DeviceChooser(DEVICE), 2)
    with pytest.raises(EngineError, match=r"too little memory .* 64 numbers .* --device cpu"):
        chooser(*work)


def test_what_does_not_work_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease install one")

    with monkeypatch.context() as changed:
        changed.setattr(DeviceChooser, "_choose", refuse)
        assert "fails there (RuntimeError: Failed to find C compiler.)" in str(try_chooser(DEVICE))
    with monkeypatch.context() as changed:
        changed.setattr(device_feedback, "choose", lambda *_: (np.zeros(1), None))
        assert "other codes" in str(try_chooser(DEVICE))
    monkeypatch.setitem(sys.modules, "secateur.rounding.device_kernels", None)
    assert "no Triton" in str(try_chooser(DEVICE))


class PretendedGpu(TorchDevice):
    @property
    def name(self) -> str:
        return NAME


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU on this machine, whose codes CHOOSER chooses."""
    there = PretendedGpu(torch.device("cuda", 0))
    monkeypatch.setattr(backends, "choose_backend", lambda device: there)
    monkeypatch.setattr(backends, "is_cpu", lambda device: device == "cpu")
    monkeypatch.setattr(device_feedback, "open_chooser", lambda device, nbytes: CHOOSER)
    yield


def check(model: Checkpoint, stats: Path) -> tuple[Plan, CheckedPlan]:  # noqa: F811
    formats = Formats(types="Q4_0", recipes=RECIPES[:1], to="gguf,mlx", rounding="feedback")
    plan = secateur.plan(model, Pruning(drop=0.0), formats, statistics=stats)
    sources = PlanSources(model, load_statistics(stats), None, load_gram(stats))
    return plan, check_plan(plan, sources)


@pytest.mark.usefixtures("gpu")
def test_an_output_says_who_chose_and_is_of_one_chooser(
    model: Checkpoint,  # noqa: F811
    observed: Callable[..., Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Interrupted on a GPU it goes on there, and nowhere else."""
    stats = observed("own")
    plan, _ = check(model, stats)
    on_cores = write(plan, stats, tmp_path / "cores")
    assert read_manifest(tmp_path / "cores")["codes_chosen_on"] == "cpu"
    calls: list[int] = []

    def count(self: DeviceChooser, *work: Any) -> Any:
        calls.append(1)
        if len(calls) == stop:
            raise EngineError("the GPU is gone")
        codes, scales = choose(*work)
        return codes ^ (work[0] > 0.02), scales  # as if sums had turned many a tie

    stop = 0
    monkeypatch.setattr(DeviceChooser, "__call__", count)
    whole = write(plan, stats, tmp_path / "device", device="auto")
    assert read_manifest(tmp_path / "device")["codes_chosen_on"] == NAME and calls
    assert {file: len(data) for file, data in whole.items()} == {
        file: len(data) for file, data in on_cores.items()
    }
    assert all(whole[file] != data for file, data in on_cores.items())
    needed, stop, out = len(calls), len(calls) // 2, tmp_path / "interrupted"
    calls.clear()
    with pytest.raises(EngineError, match="the GPU is gone"):
        write(plan, stats, out, device="auto")
    with pytest.raises(OutputError, match="unfinished work of another plan, .*--device"):
        write(plan, stats, out, device="cpu")
    calls.clear()
    stop = 0
    assert write(plan, stats, out, device="auto") == whole
    assert 0 < len(calls) < needed


@pytest.mark.usefixtures("gpu")
def test_where_codes_are_chosen_is_told(
    model: Checkpoint,  # noqa: F811
    observed: Callable[..., Path],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, checked = check(model, observed("own"))
    said: list[str] = []

    def find(device: str, parts: int | None = None) -> str:
        said.clear()

        def listen(stage: str, done: int, total: int, unit: str) -> None:
            said.append(stage)

        return find_chooser(checked, device, Running(parts=parts), listen).name

    assert find("cuda") == NAME and said == [f"codes are chosen on {NAME}"]
    assert find("cpu") == ON_CORES.name and not said
    assert find("cuda", parts=2) == ON_CORES.name and "in parts" in said[0]
    reason = "it has 1.00 GB of memory free, and 2.00 GB are needed"
    monkeypatch.setattr(device_feedback, "open_chooser", lambda device, nbytes: reason)
    assert find("auto") == ON_CORES.name
    assert said == [f"codes are chosen on the cores of the CPU, not on {NAME}: {reason}"]
    other = PretendedGpu(torch.device("mps"))
    monkeypatch.setattr(backends, "choose_backend", lambda device: other)
    assert find("mps") == ON_CORES.name and "is no CUDA device" in said[0]
