"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import gemma4_facts
import pytest
from tiny_line import Line, Run, runner, save_line
from tiny_models import save_tiny

from secateur import Report
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.serving.engine_server import EngineServer


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Cache, settings and logs are in folders of this session, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """A tiny float32 checkpoint by form (`tiny_models.FORMS`), saved once a session: read only."""
    opened: dict[str, Checkpoint] = {}

    def get(form: str) -> Checkpoint:
        if form not in opened:
            folder: Path = save_tiny(form, tmp_path_factory.mktemp(form) / "model")
            opened[form] = open_checkpoint(folder)
        return opened[form]

    return get


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.json and vocabulary.gguf with the real Gemma 4 26B-A4B's numbers: read only."""
    return gemma4_facts.write_model(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Gemma 4 whose expert 3 of layer 1 has a NaN in its down projection."""
    folder = save_tiny("gemma4", tmp_path_factory.mktemp("broken") / "model")
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    name = next(n for n in tensors if "layers.1." in n and "down_proj" in n and "experts" in n)
    tensors[name][3, 5, 2] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return open_checkpoint(folder)


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """A tiny model with tokenizer and template, a corpus and answers: read only."""
    return save_line(tmp_path_factory.mktemp("line"))


@pytest.fixture(scope="session")
def stats(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The statistics of `line`'s model on its corpus."""
    from secateur import Calibration, calibrate

    path = tmp_path_factory.mktemp("stats") / "stats.safetensors"
    calibrate(line.model, path, Calibration(str(line.corpus), observe=("sample_norms",)), workers=1)
    return path


@pytest.fixture(scope="session")
def shrink_once(line: Line, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """The whole line, run once."""
    from secateur import Calibration, Formats, Measuring, Pruning, ShrinkRequest, shrink

    out = tmp_path_factory.mktemp("made") / "out"
    request = ShrinkRequest(
        Pruning(experts=6),
        Formats(types=("Q8_0", "Q4_K_M")),
        Calibration(str(line.corpus)),
        Measuring(answers=line.answers),
    )
    report = shrink(line.model, out, request, workers=1)
    assert report is not None
    return out, report


@pytest.fixture(scope="session")
def made(shrink_once: tuple[Path, Report]) -> Path:
    """What the whole line makes of `line` with 6 of 8 experts: read only."""
    return shrink_once[0]


@pytest.fixture(scope="session")
def shrunk(shrink_once: tuple[Path, Report]) -> Report:
    """The report of `made`."""
    return shrink_once[1]


@pytest.fixture(scope="session")
def gemmule_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gemmule in Q8_0, unpruned: read only."""
    from secateur import Formats, Pruning, apply, plan

    folder = tmp_path_factory.mktemp("gguf") / "out"
    apply(plan("gemmule", Pruning(), Formats(types="Q8_0", to="gguf", mmproj="none")), folder)
    return next(folder.glob("*.gguf"))


@pytest.fixture(scope="session")
def gemmule_server(gemmule_gguf: Path) -> Iterator[EngineServer]:
    """gemmule in llama.cpp: two slots of 1,024 tokens, one thread, with a key."""
    from secateur.serving.engine_server import serve_model
    from secateur.serving.settings import ServerSettings

    settings = ServerSettings(context=1024, slots=2, workers=1, api_key="secret-of-gemmule")
    with serve_model(gemmule_gguf, settings) as running:
        yield running


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """The command line in this process; what it caches goes to the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    return runner(monkeypatch, capfd)
