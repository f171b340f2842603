"""A calibration that was stopped goes on after its last layer, and ends with the same bytes."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from test_calibrate import corpus
from torch import nn

from secateur.calibration import pass_folder
from secateur.calibration.layer_pass import calibrate
from secateur.calibration.observers.sample_norms import SAMPLE_NORMS
from secateur.calibration.pass_folder import PassFolder
from secateur.calibration.token_sample import Sampling
from secateur.checkpoint.reader import Checkpoint
from secateur.forward.backends.base import Backend
from secateur.forward.backends.cpu import CpuBackend
from secateur.forward.backends.torch_device import TorchDevice
from secateur.forward.stream import ForwardPass
from secateur.statistics.file import save

TINY = Callable[[str], Checkpoint]
LAYERS = 3


class Pull(BaseException):
    """The plug is pulled."""


@pytest.fixture(autouse=True)
def saved_after_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """However quick the layers of a tiny model are."""
    monkeypatch.setattr(pass_folder, "MOST_SHARE", math.inf)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The layers that are loaded; after a number below zero at its end, the plug is pulled when
    so many more were asked for."""
    loaded: list[int] = []
    load = ForwardPass.load_layer

    @contextmanager
    def counted(self: ForwardPass, layer: int) -> Iterator[nn.Module]:
        if loaded and loaded[0] < 0:
            loaded[0] += 1
            if loaded[0] == 0:
                del loaded[0]
                raise Pull
        loaded.append(layer)
        with load(self, layer) as module:
            yield module

    monkeypatch.setattr(ForwardPass, "load_layer", counted)
    return loaded


def run(
    checkpoint: Checkpoint, folder: Path, backend: Backend, *, shared: str = "own", **more: Any
) -> dict[str, bytes]:
    """A pass with everything that it can keep; the files it made."""
    kept = PassFolder(folder)
    sampling = Sampling(
        24, keep=folder / "sample", gram=shared, gram_file=folder / "grams", resume=kept
    )  # type: ignore[arg-type]
    found = calibrate(
        checkpoint, corpus(), sampling=sampling, observers=[SAMPLE_NORMS], backend=backend, **more
    )
    save(found, folder / "made")
    return {name: (folder / name).read_bytes() for name in ("made", "sample", "grams")}


BACKENDS = {"cpu": CpuBackend(2), "device": TorchDevice(torch.device("cpu"))}


@pytest.mark.parametrize(
    ("form", "place"),
    [
        ("gemma4", "cpu"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (("gemma4", "device"), ("deepseek_v3", "cpu"), ("qwen3_moe", "device"))
        ),
    ],
)
def test_it_goes_on_after_the_last_layer_with_the_same_bytes(
    form: str, place: str, tiny: TINY, tmp_path: Path, ran: list[int]
) -> None:
    """deepseek_v3 has a dense layer first, gemma4 layers of two kinds."""
    backend, checkpoint = BACKENDS[place], tiny(form)
    layers = checkpoint.layers
    whole = run(checkpoint, tmp_path / "whole", backend)
    # A pass that keeps nothing makes the same.
    save(
        calibrate(
            checkpoint, corpus(), sampling=Sampling(24), observers=[SAMPLE_NORMS], backend=backend
        ),
        tmp_path / "made",
    )
    assert (tmp_path / "made").read_bytes() == whole["made"]
    for first in range(1, layers):
        folder = tmp_path / f"cut{first}"
        ran[:] = [-1 - first]
        with pytest.raises(Pull):
            run(checkpoint, folder, backend)
        assert ran == list(range(first))
        del ran[:]
        assert run(checkpoint, folder, backend) == whole
        assert ran == list(range(first, layers))
    ran[:] = []
    every = tmp_path / "every"
    for layer in range(layers - 1):  # one layer at a time
        ran[:] = [-2]
        with pytest.raises(Pull):
            run(checkpoint, every, backend)
        assert ran == [layer]
    assert run(checkpoint, every, backend) == whole


def test_skipped_tokens_stay_skipped(broken: Checkpoint, tmp_path: Path, ran: list[int]) -> None:
    whole = run(broken, tmp_path / "whole", CpuBackend(2), skip_bad=True)
    ran[:] = [-3]
    with pytest.raises(Pull):
        run(broken, tmp_path / "cut", CpuBackend(2), skip_bad=True)
    assert run(broken, tmp_path / "cut", CpuBackend(2), skip_bad=True) == whole


def test_states_beyond_memory_are_kept_too(
    tiny: TINY, tmp_path: Path, ran: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tiny("gemma4"), tmp_path / "whole", CpuBackend(2))
    backend = CpuBackend(2, states_limit=0)
    monkeypatch.setitem(ForwardPass.__init__.__kwdefaults__, "hidden_limit", 0)
    ran[:] = [-3]
    with pytest.raises(Pull):
        run(tiny("gemma4"), tmp_path / "cut", backend)
    assert run(tiny("gemma4"), tmp_path / "cut", backend) == whole


def test_what_was_kept_and_damaged_is_said_and_not_used(
    tiny: TINY, tmp_path: Path, ran: list[int]
) -> None:
    whole = run(tiny("gemma4"), tmp_path / "whole", CpuBackend(2))
    ran[:] = [-3]
    with pytest.raises(Pull):
        run(tiny("gemma4"), tmp_path / "cut", CpuBackend(2))
    kept = sorted(path.name for path in (tmp_path / "cut").iterdir())
    assert kept == [
        "grams", "grams.index", "layers-0001.safetensors", "layers-0002.safetensors",
        "sample", "states-0002",
    ]  # fmt: skip
    assert PassFolder(tmp_path / "cut").done.layers == 2
    for name in kept:
        folder = shutil.copytree(tmp_path / "cut", tmp_path / "copy")
        content = bytearray((folder / name).read_bytes())
        if name.startswith(("states", "layers")):
            content[len(content) // 2] ^= 1
        else:  # what is in these is checked where it is read
            del content[len(content) // 4 :]
        (folder / name).write_bytes(content)
        found = PassFolder(folder)
        assert found.damage is not None, name
        assert found.done.layers == 0
        assert list(folder.iterdir()) == []
        assert run(tiny("gemma4"), folder, CpuBackend(2)) == whole
        shutil.rmtree(folder)


def test_a_pass_is_not_saved_where_that_costs_more_than_its_share(
    tiny: TINY, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pass_folder, "MOST_SHARE", 0.0)
    run(tiny("gemma4"), tmp_path / "cut", CpuBackend(2))
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {
        "made", "sample", "grams", "grams.index",
    }  # fmt: skip
