"""Fixtures that several test files share, and how the tests run on several cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import gemma4_facts
import pytest
from killed_line import Killer, killer
from shared import Shared
from tiny_line import Line, Run, runner, save_line
from tiny_models import save_tiny

from secateur import Report
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.serving.engine_server import EngineServer
from secateur.system.resources import cores, free_memory

MOST_WORKERS = 4
MEMORY_OF_WORKER = 3 << 30
"""Bytes that a worker and the processes that its tests start take at most."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many processes `pytest -n auto` starts."""
    return max(1, min(MOST_WORKERS, cores(), free_memory() // MEMORY_OF_WORKER))


def pytest_configure(config: pytest.Config) -> None:
    """Before the workers start: they share the cores, also in what loads OpenMP or BLAS."""
    if workers := getattr(config.option, "numprocesses", None):
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, str(max(1, cores() // workers)))


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Cache, settings and logs are in folders of this session, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """What the workers of a parallel run share."""
    found = Shared(tmp_path_factory)
    yield found
    found.check()


@pytest.fixture
def only_cluster(shared: Shared) -> Iterator[None]:
    """Ray finds any cluster of the machine: one worker at a time has one, or has none."""
    with shared.alone("ray"):
        yield


@pytest.fixture(scope="session")
def tiny(shared: Shared) -> Callable[[str], Checkpoint]:
    """A tiny float32 checkpoint by form (`tiny_models.FORMS`), saved once a run: read only."""
    opened: dict[str, Checkpoint] = {}

    def get(form: str) -> Checkpoint:
        if form not in opened:
            folder = shared.make(f"tiny-{form}", lambda folder: save_tiny(form, folder / "model"))
            opened[form] = open_checkpoint(folder)
        return opened[form]

    return get


@pytest.fixture(scope="session")
def real(shared: Shared) -> Path:
    """config.json and vocabulary.gguf with the real Gemma 4 26B-A4B's numbers: read only."""
    return shared.make("real", gemma4_facts.write_model)


@pytest.fixture(scope="session")
def broken(shared: Shared) -> Checkpoint:
    """Gemma 4 whose expert 3 of layer 1 has a NaN in its down projection: read only."""
    return open_checkpoint(shared.make("broken", _save_broken))


def _save_broken(room: Path) -> Path:
    import torch
    from safetensors.torch import load_file, save_file

    folder = save_tiny("gemma4", room / "model")
    tensors = load_file(folder / "model.safetensors")
    name = next(n for n in tensors if "layers.1." in n and "down_proj" in n and "experts" in n)
    tensors[name][3, 5, 2] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def line(shared: Shared) -> Line:
    """A tiny model with tokenizer and template, a corpus and answers: read only."""
    return shared.make("line", save_line)


@pytest.fixture(scope="session")
def stats(line: Line, shared: Shared) -> Path:
    """The statistics of `line`'s model on its corpus: read only."""
    from secateur import Calibration, calibrate

    def make(folder: Path) -> Path:
        path = folder / "stats.safetensors"
        request = Calibration(str(line.corpus), observe=("sample_norms",))
        calibrate(line.model, path, request, workers=1)
        return path

    return shared.make("stats", make)


@pytest.fixture(scope="session")
def shrink_once(line: Line, shared: Shared) -> tuple[Path, Report]:
    """The whole line, run once."""
    from secateur import Calibration, Formats, Measuring, Pruning, ShrinkRequest, shrink

    request = ShrinkRequest(
        Pruning(experts=6),
        Formats(types=("Q8_0", "Q4_K_M")),
        Calibration(str(line.corpus)),
        Measuring(answers=line.answers),
    )

    def make(folder: Path) -> tuple[Path, Report]:
        report = shrink(line.model, folder / "out", request, workers=1)
        assert report is not None
        return folder / "out", report

    return shared.make("made", make)


@pytest.fixture(scope="session")
def made(shrink_once: tuple[Path, Report]) -> Path:
    """What the whole line makes of `line` with 6 of 8 experts: read only."""
    return shrink_once[0]


@pytest.fixture(scope="session")
def shrunk(shrink_once: tuple[Path, Report]) -> Report:
    """The report of `made`."""
    return shrink_once[1]


@pytest.fixture(scope="session")
def gemmule_gguf(shared: Shared) -> Path:
    """gemmule in Q8_0, unpruned: read only."""
    from secateur import Formats, Pruning, apply, plan

    def make(folder: Path) -> Path:
        decided = plan("gemmule", Pruning(), Formats(types="Q8_0", to="gguf", mmproj="none"))
        apply(decided, folder / "out")
        return next((folder / "out").glob("*.gguf"))

    return shared.make("gguf", make)


@pytest.fixture(scope="session")
def gemmule_server(gemmule_gguf: Path) -> Iterator[EngineServer]:
    """gemmule in llama.cpp: two slots of 1,024 tokens, one thread, with a key."""
    from secateur.serving.engine_server import serve_model
    from secateur.serving.settings import ServerSettings

    settings = ServerSettings(context=1024, slots=2, workers=1, api_key="secret-of-gemmule")
    with serve_model(gemmule_gguf, settings) as running:
        yield running


@pytest.fixture(scope="session")
def forks() -> Iterator[Killer]:
    """Runs command lines that are cut short; has imported all that they need."""
    with killer() as found:
        yield found


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """The command line in this process; what it caches goes to the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    return runner(monkeypatch, capfd)
