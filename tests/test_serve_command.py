"""`secateur serve` and `secateur chat` as they are typed."""

from __future__ import annotations

import ast
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny_line import Run

from secateur.api.serving import find_key, find_served, memory_of_serving
from secateur.cli.render.serving import client_lines, served_lines
from secateur.cli.talk import _lines
from secateur.errors import RequestError
from secateur.serving.engine_server import EngineServer
from secateur.serving.http_json import request_json
from secateur.serving.identity import ServerIdentity
from secateur.serving.settings import NEUTRAL, ServerSettings

# What runs in the background of a shell has Ctrl-C ignored, and hands that on.
START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from secateur.cli.main import main
main()
"""


@contextmanager
def serving(*words: object, **env: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A `secateur serve` with what it prints; killed at the end."""
    command = [sys.executable, "-c", START, "serve", *map(str, words), "--json"]
    with subprocess.Popen(
        [*command, "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            while lines[-1] not in ("}\n", ""):
                lines.append(process.stdout.readline())
            assert lines[-1], process.stderr and process.stderr.read()
            yield process, json.loads("".join(lines))
        finally:
            process.kill()


def ask(server: dict[str, Any], key: str | None) -> Any:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    return request_json(f"{server['url']}/chat/completions", body, key=key)


def test_a_server_is_started_asked_and_stopped(gemmule_gguf: Path, tmp_path: Path) -> None:
    key, log = tmp_path / "key.txt", tmp_path / "engine.log"
    words = ("--port", 0, "--api-key-file", key, "--log", log, "--thinking", "off")
    with serving(gemmule_gguf.parent, *words) as (process, found):
        secret = key.read_text().strip()
        assert len(secret) > 20 and key.stat().st_mode & 0o777 == 0o600
        assert ask(found, secret)["choices"]
        with pytest.raises(Exception, match="status 401"):
            ask(found, "wrong")
        assert found["name"] == "gemmule-Q8_0"
        assert found["probe"]["verdict"] == "yes"
        assert found["identity"]["context"] == 2048
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert err.startswith("loading gemmule-Q8_0.gguf: 19.")
    assert err.endswith("stopped\n")
    assert "of key-value cache" in err
    for text in (log.read_text(), err, json.dumps(found)):
        assert secret not in text
    port = int(found["url"].split(":")[-1].split("/")[0])
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))


@pytest.mark.slow
def test_ctrl_c_stops_it_and_its_engine_too(gemmule_gguf: Path) -> None:
    with serving(gemmule_gguf, "--port", 0) as (process, _):
        found = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
        )
        (engine,) = map(int, found.stdout.split())
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        assert process.returncode == 0
        with pytest.raises(ProcessLookupError):
            os.kill(engine, 0)


@pytest.mark.slow
def test_an_engine_that_dies_ends_the_command(gemmule_gguf: Path) -> None:
    with serving(gemmule_gguf, "--port", 0) as (process, _):
        found = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
        )
        os.kill(int(found.stdout), signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ended: its process ended with status -9: its log is " in err


def test_which_model_of_an_output_is_served(made: Path, run: Run) -> None:
    names = "tiny-moe-6e-Q4_K_M.gguf, tiny-moe-6e-Q8_0.gguf"
    ran = run("serve", made)
    assert (ran.code, ran.said) == (
        2, [f"secateur: {made} holds several models ({names}): name one of them"],
    )  # fmt: skip
    assert find_served(made, "q4_k_m").name == "tiny-moe-6e-Q4_K_M.gguf"
    assert find_served(made, "tiny-moe-6e-Q8_0.gguf").name == "tiny-moe-6e-Q8_0.gguf"
    with pytest.raises(RequestError, match=r"holds no 'Q2', but tiny-moe"):
        find_served(made, "Q2")
    with pytest.raises(RequestError, match="is a model itself: leave out 'Q8'"):
        find_served(made / "tiny-moe-6e-Q8_0.gguf", "Q8")


def test_safetensors_alone_are_served_by_others(line: Any, run: Run) -> None:
    ran = run("serve", line.model)
    assert ran.code == 2
    assert "holds safetensors only" in ran.err and f"vllm serve {line.model}" in ran.err
    ran = run("serve", "/nowhere")
    assert ran.said == ["secateur: /nowhere is not there, expected an output of secateur or a GGUF"]


def test_a_server_that_others_can_reach_needs_a_key(gemmule_gguf: Path, run: Run) -> None:
    ran = run("serve", gemmule_gguf, host="0.0.0.0")
    assert ran.code == 2
    assert "an API key is needed" in ran.err


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path) -> None:
    assert find_key(None, {}) is None
    assert find_key(None, {"SECATEUR_API_KEY": "mine"}) == "mine"
    path = tmp_path / "keys" / "key"
    made = find_key(path, {"SECATEUR_API_KEY": "mine"})
    assert made is not None and find_key(path, {}) == made
    path.chmod(0o644)
    with pytest.raises(RequestError, match="others may read it: chmod 600"):
        find_key(path, {})
    path.chmod(0o600)
    path.write_text("\n")
    with pytest.raises(RequestError, match="is empty, expected a key"):
        find_key(path, {})


def test_memory_is_counted_with_all_slots(gemmule_gguf: Path, tmp_path: Path) -> None:
    one, two = (memory_of_serving(gemmule_gguf, ServerSettings(512, slots)) for slots in (1, 2))
    assert one.weights == gemmule_gguf.stat().st_size
    assert one.cache is not None and two.cache is not None
    logits = 512 * 4096 * 4
    assert two.cache - logits == 2 * (one.cache - logits)
    alone = tmp_path / "alone.gguf"
    alone.hardlink_to(gemmule_gguf)
    assert memory_of_serving(alone, ServerSettings(512)).cache is None


def chat(run: Run, monkeypatch: pytest.MonkeyPatch, lines: str, *words: object, **more: Any) -> Any:
    """`secateur chat` with lines from a pipe; thoughts off unless they are asked for."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return run("chat", *words, workers=1, **{"thinking": "off", **more})


def test_a_conversation_through_a_pipe(
    gemmule_gguf: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = "What is 12 + 7?\n"
    lines = f"{question}{question}/what\n/new\n{question}/quit\nx\n"
    ran = chat(run, monkeypatch, lines, gemmule_gguf)
    assert ran.code == 0
    answers = ran.out.split("\n\n")[:-1]
    help_ = "(/new forgets what was said, /system TEXT sets the system message, /quit ends)"
    assert answers.pop(2) == help_
    assert len(answers) == 3
    assert answers[0] == answers[2] and "=" in answers[0]
    assert "loading gemmule-Q8_0.gguf" in ran.err


@pytest.mark.slow
def test_two_models_are_asked_the_same_with_the_same_seed(
    gemmule_gguf: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(**more: Any) -> list[str]:
        line = "Name a colour.\n"
        ran = chat(run, monkeypatch, line, gemmule_gguf, temperature=1.5, **more)
        assert ran.code == 0, ran.err
        return [part for part in ran.out.split("\n\n") if part]

    same = ask(beside=gemmule_gguf, seed=5)
    assert len(same) == 2 and same[0] == same[1]
    assert ask(beside=gemmule_gguf, seed=6) != same
    other = ask(beside="gemmule", seed=5)
    assert [part.split(":\n")[0] for part in other] == ["gemmule-Q8_0", "gemmule-BF16"]


@pytest.mark.slow
def test_what_an_answer_lost_is_said(
    gemmule_gguf: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(**more: Any) -> str:
        return str(chat(run, monkeypatch, "What is 12 + 7?\n", gemmule_gguf, **more).out)

    thought = ask(thinking="on", thoughts=True)
    assert len(thought.splitlines()) > len(ask(thinking="on").splitlines())
    assert "(cut: the limit of tokens or the context ended it)" in ask(max_tokens=3)
    assert "lost by the server's parser)" in ask(thinking="on", reasoning_budget=5)
    assert "exceeds the available context size" in ask(context=256, system="word " * 300)


def test_lines_of_another_encoding_end_no_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO(b"Gr\xfc\xdf dich\nBye\n"), "utf-8")
    )
    assert list(_lines()) == ["Gr\ufffd\ufffd dich", "Bye"]


def test_it_is_said_on_what_a_model_runs() -> None:
    def line(**flags: Any) -> str:
        identity = ServerIdentity("llama.cpp", "xllamacpp", "1", "0" * 64, None, 256, 1, flags)
        server = EngineServer(
            "http://x", None, "m", identity, NEUTRAL, 0, lambda: None, lambda: None
        )
        return served_lines(server, ServerSettings(), {"sentences": [], "log": "l"}, None)[1]

    assert "(xllamacpp 1) on the CPU, 1 request" in line(devices=[], gpu_layers=0)
    assert "(xllamacpp 1) on CUDA0 RTX, 1" in line(devices=["CUDA0 RTX"], gpu_layers=None)
    assert "on the CPU" in line(devices=["CUDA0 RTX"], gpu_layers=0)
    assert "(xllamacpp 1), 1" in line()


def test_the_lines_for_clients_can_be_pasted_whatever_the_names(tmp_path: Path) -> None:
    key, model = tmp_path / "a 'key' $(of) mine", 'it\'s a "model" `x`'
    key.write_text("se cret\n")
    curl, empty, *script = client_lines("http://[::1]:8080/v1", model, True, key)
    shell = f"""curl() {{ printf '%s\\0' "$@"; }}; {curl}"""
    ran = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    url, *_, header, data, body = ran.stdout.split("\0")[:-1]
    assert (url, header, data) == (
        "http://[::1]:8080/v1/chat/completions", "Authorization: Bearer se cret", "-d",
    )  # fmt: skip
    assert json.loads(body)["model"] == model
    assert empty == ""
    made = ast.parse("\n".join(script)).body[2:4]
    calls = [node.value for node in made if isinstance(node, ast.Assign)]
    words = [
        {one.arg: eval(ast.unparse(one.value)) for one in call.keywords}
        for call in calls
        if isinstance(call, ast.Call)
    ]
    assert words[0] == {"base_url": "http://[::1]:8080/v1", "api_key": "se cret"}
    assert words[1]["model"] == model
    assert client_lines("http://x/v1", "m", False, None)[2:][1].endswith('api_key="none")')
    assert "$SECATEUR_API_KEY" in client_lines("http://x/v1", "m", True, None)[0]
