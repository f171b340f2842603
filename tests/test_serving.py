"""Serving: settings, what a model's own files say, and what the engine is held to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from secateur.errors import CheckpointError, EngineError, FormatError, RequestError
from secateur.formats.gguf.container import STRING, Value
from secateur.formats.gguf.writer import write_gguf
from secateur.serving import host_process
from secateur.serving.engine_server import EngineServer, serve_model
from secateur.serving.llama_serving import _flags
from secateur.serving.model_defaults import gguf_defaults, model_bytes
from secateur.serving.settings import NEUTRAL, Sampler, ServerSettings, Thinking
from secateur.system.log_file import open_log

CONFIG = "generation_config.json"


def gguf_file(folder: Path, **sampling: Value) -> Path:
    """A GGUF without tensors, of an architecture that was trained for 4,096 tokens."""
    metadata = {
        "general.architecture": Value(STRING, "toy"),
        "toy.context_length": Value("u32", 4096),
        **{f"general.sampling.{key}": value for key, value in sampling.items()},
    }
    path = folder / "toy.gguf"
    write_gguf(path, metadata, [], [])
    return path


def test_sampling_comes_from_the_models_own_files(tmp_path: Path) -> None:
    path = gguf_file(tmp_path, top_k=Value("i32", 64), top_p=Value("f32", 0.95))
    found = gguf_defaults(path)
    assert found.sampler.top_k == 64
    assert found.sampler.top_p == pytest.approx(0.95)
    assert found.sampler.temperature == 1.0
    assert found.trained_context == 4096
    (tmp_path / CONFIG).write_text('{"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.1}')
    both = gguf_defaults(path).sampler
    assert (both.temperature, both.top_k, both.repeat_penalty) == (0.7, 64, 1.1)
    (tmp_path / CONFIG).write_text('{"temperature": 0.7, "do_sample": false}')
    assert gguf_defaults(path).sampler.temperature == 0
    (tmp_path / CONFIG).write_text('{"temperature": "hot"}')
    with pytest.raises(CheckpointError, match=r"temperature of its sampling is 'hot', expected a"):
        gguf_defaults(path)


def test_all_parts_of_a_model_count_for_the_time_that_it_has_to_load(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"m-{number:05}-of-00003.gguf").write_bytes(b"x" * 10 * number)
        (tmp_path / f"model-{number:05}-of-00003.safetensors").write_bytes(b"x" * number)
    assert model_bytes(tmp_path / "m-00001-of-00003.gguf") == 60
    assert model_bytes(tmp_path) == 6
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    with pytest.raises(FormatError, match="m-00002-of-00003.gguf, a part of the model"):
        model_bytes(tmp_path / "m-00001-of-00003.gguf")


def test_a_lock_knows_a_vision_tower_by_its_bytes(tmp_path: Path) -> None:
    towers = []
    for place, content in (("a", b"one"), ("b", b"other"), ("c", b"one")):
        (tmp_path / place).mkdir()
        towers.append(tmp_path / place / "mmproj-F16.gguf")
        towers[-1].write_bytes(content)
    flags = [_flags(ServerSettings(mmproj=tower), Sampler(), []) for tower in towers]
    assert flags[0] == flags[2] != flags[1]
    assert "mmproj" not in str(_flags(ServerSettings(), Sampler(), []))


def test_sampling_that_cannot_be_is_said_of_its_file(tmp_path: Path) -> None:
    path = gguf_file(tmp_path, top_p=Value("f32", 1.5))
    with pytest.raises(FormatError, match=r"toy.gguf: of its sampling, top_p is 1.5, expected"):
        gguf_defaults(path)


def test_an_engine_that_never_becomes_ready_is_stopped_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_process, "START_SECONDS", 0.3)
    script = tmp_path / "host.py"
    script.write_text("import time\ntime.sleep(60)\n")
    order = {"model": str(tmp_path / "m.gguf")}
    with (
        open_log(None) as log,
        pytest.raises(EngineError, match=r"m.gguf: it was not ready after 0 seconds, and was"),
        host_process.start_host("an engine", script, order, log),
    ):
        pass


def test_a_user_says_more_than_the_model() -> None:
    own = Sampler(temperature=0.7, top_k=64).over(NEUTRAL)
    assert Sampler(top_k=0, seed=3).over(own) == Sampler(0.7, 0, 1.0, 0.0, 1.0, 0.0, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sampler(temperature=-1), r"temperature is -1, expected at least 0"),
        (lambda: Sampler(top_p=1.5), r"top_p is 1\.5, expected at least 0 and at most 1"),
        (lambda: Thinking(message="enough"), r"reasoning_message .* give reasoning_budget"),
        (lambda: Thinking(False, 5), r"thinking is off, and reasoning_budget is 5"),
        (lambda: ServerSettings(host="0.0.0.0"), r"other machines, so an API key is needed"),
        (lambda: ServerSettings(api_key="two words"), r"the API key is empty or has blanks"),
        (lambda: ServerSettings(slots=0), r"slots is 0, expected 1 or more"),
        (lambda: ServerSettings(port=70000), r"port is 70000, expected 0 to 65535"),
    ],
)
def test_settings_that_cannot_be_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(RequestError, match=message):
        make()


def test_a_key_is_not_shown(gemmule_server: EngineServer) -> None:
    assert gemmule_server.api_key not in (None, "")
    assert str(gemmule_server.api_key) not in repr(gemmule_server)
    assert "a-key" not in repr(ServerSettings(api_key="a-key"))


def test_the_engine_is_known_by_its_build_and_settings(gemmule_server: EngineServer) -> None:
    identity = gemmule_server.identity
    assert (identity.context, identity.slots) == (1024, 2)
    assert len(identity.library_sha256) == 64
    assert identity.template_sha256 is not None
    assert identity.to_json()["flags"]["sampler"]["temperature"] == 0  # gemmule is greedy
    gemmule_server.check_context(1024, "a prompt")
    with pytest.raises(RequestError, match=r"a prompt needs 1025 tokens .* has 1024 per slot"):
        gemmule_server.check_context(1025, "a prompt")


def test_a_context_beyond_the_training_is_refused(gemmule_gguf: Path) -> None:
    with (
        pytest.raises(RequestError, match=r"context is 3000, but .* at most 2048 tokens"),
        serve_model(gemmule_gguf, ServerSettings(context=3000)),
    ):
        pass


def test_samplers_are_those_asked_for_and_not_the_files(gemmule_gguf: Path) -> None:
    mine = Sampler(0.5, 7, 0.9, 0.02, 1.1, 0.5, 11)
    with serve_model(gemmule_gguf, ServerSettings(256, workers=1, sampler=mine)) as server:
        assert server.sampler == mine
        said = server.ask("/props")["default_generation_settings"]["params"]
        assert said["seed"] == 11
        assert said["temperature"] == pytest.approx(0.5)


def test_a_port_in_use_is_told(gemmule_gguf: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(RequestError, match=rf"port {port}: .* give another port"),
            serve_model(gemmule_gguf, ServerSettings(port=port)),
        ):
            pass


def test_a_gpu_that_the_build_cannot_use_is_told(gemmule_gguf: Path) -> None:
    import xllamacpp

    if any("GPU" in device["type"].name for device in xllamacpp.get_device_info()):
        with serve_model(gemmule_gguf, ServerSettings(256, workers=1, gpu_layers=1)) as server:
            assert server.identity.flags["devices"]
        return
    with (
        pytest.raises(RequestError, match="there is no GPU that this build of xllamacpp can use"),
        serve_model(gemmule_gguf, ServerSettings(256, workers=1, gpu_layers=1)),
    ):
        pass


def test_a_damaged_file_is_told_before_an_engine_starts(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(8))
    with pytest.raises(FormatError, match=r"broken\.gguf"), serve_model(path):
        pass


def test_an_engine_ends_with_the_block_and_frees_its_port(
    gemmule_gguf: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log" / "engine.log"
    with serve_model(gemmule_gguf, ServerSettings(256, workers=1), log) as server:
        assert server.failure() is None
        port = int(server.address.rpartition(":")[2])
    assert server.failure() == f"llama.cpp with {gemmule_gguf} ended: it was stopped"
    assert "listening on" in log.read_text()
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))


def test_an_engine_that_was_killed_is_told(
    gemmule_gguf: Path, gemmule_server: EngineServer
) -> None:
    assert gemmule_server.failure() is None
    before = hosts()
    with serve_model(gemmule_gguf, ServerSettings(256, workers=1)) as server:
        (mine,) = hosts() - before
        os.kill(mine, signal.SIGKILL)
        server.wait()
        with pytest.raises(EngineError, match=r"gguf ended: its process ended with status -9"):
            server.ask("/props")


def hosts() -> set[int]:
    """Hosts of llama.cpp that this process has started."""
    found = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "llama_host"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(map(int, found.stdout.split()))
