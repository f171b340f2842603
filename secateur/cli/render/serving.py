"""What `serve` says: the memory it takes, the address, and how to call it."""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote
from typing import Any

from secateur.api.serving import KEY_VARIABLE, ServedMemory
from secateur.serving.engine_server import EngineServer
from secateur.serving.probe import Probe
from secateur.serving.settings import ServerSettings
from secateur.system.sizes import show_bytes

_HELLO = [{"role": "user", "content": "Hello"}]


def memory_line(path: Path, memory: ServedMemory) -> str:
    """One line before a model is loaded: what it takes, and what there is."""
    if memory.cache is None:
        parts = f"{show_bytes(memory.weights)} of weights, and a key-value cache"
    else:
        parts = (
            f"{show_bytes(memory.weights)} of weights and {show_bytes(memory.cache)} of key-value "
            f"cache: {show_bytes(memory.total)}"
        )
    line = f"loading {path.name}: {parts}; {show_bytes(memory.free)} of memory are free"
    if memory.total > memory.free:
        line += ", so it will be slow unless it runs on a GPU, or fail"
    return line


def served_as_json(
    server: EngineServer, path: Path, log: Path, probe: Probe | None
) -> dict[str, Any]:
    """A server as JSON; without its key."""
    return {
        "model": str(path),
        "name": server.alias,
        "url": server.url,
        "log": str(log),
        "identity": server.identity.to_json(),
        "probe": None if probe is None else probe.to_json(),
        "sentences": [] if probe is None else list(probe.sentences()),
    }


def served_lines(
    server: EngineServer, settings: ServerSettings, described: dict[str, Any], key: Path | None
) -> list[str]:
    """A server for people, with an example for curl and one for Python."""
    identity, sampler = server.identity, server.sampler
    context = "" if identity.context is None else f" of {identity.context:,} tokens"
    slots = f"{identity.slots} request{'s' if identity.slots > 1 else ''} at a time{context}"
    drawn = f"temperature {sampler.temperature:g}, top-k {sampler.top_k}, top-p {sampler.top_p:g}"
    more = ((sampler.min_p, "min-p"), (sampler.dry_multiplier, "DRY"))
    drawn += "".join(f", {name} {value:g}" for value, name in more if value)
    return [
        f"{server.alias} is served at {server.url}",
        f"{identity.engine} ({identity.package} {identity.version}){_where(server)}, {slots}; "
        f"{drawn}",
        *described["sentences"],
        f"log: {described['log']}",
        "",
        *client_lines(server.url, server.alias, settings.api_key is not None, key),
        "",
        "Ctrl-C stops it.",
    ]


def _where(server: EngineServer) -> str:
    """On what it runs, where the engine says it: the wheel of llama.cpp on PyPI has the CPU alone,
    and a GPU that it does not use is not missed before the first slow answer."""
    devices = server.identity.flags.get("devices")
    if devices is None:
        return ""
    if server.identity.flags["gpu_layers"] == 0:
        return " on the CPU"
    return f" on {', '.join(devices)}"


def client_lines(url: str, model: str, has_key: bool, key: Path | None) -> list[str]:
    """How a client asks a model of any name behind a key of any file's name: a line for a shell,
    an empty one, and a script for Python."""
    return [_curl(url, model, has_key, key), "", *_python(url, model, has_key, key)]


def _curl(url: str, model: str, has_key: bool, key: Path | None) -> str:
    words = ["curl", quote(f"{url}/chat/completions"), "-H 'Content-Type: application/json'"]
    if has_key:
        secret = f"${KEY_VARIABLE}" if key is None else f"$(cat {quote(str(key))})"
        words.append(f'-H "Authorization: Bearer {secret}"')
    return " ".join([*words, "-d", quote(json.dumps({"model": model, "messages": _HELLO}))])


def _python(url: str, model: str, has_key: bool, key: Path | None) -> list[str]:
    lines = ["from openai import OpenAI"]
    secret = '"none"'
    if has_key and key is not None:
        lines.insert(0, "from pathlib import Path")
        secret = f"Path({_text(str(key))}).read_text().strip()"
    elif has_key:
        lines.insert(0, "import os")
        secret = f'os.environ["{KEY_VARIABLE}"]'
    return [
        *lines,
        f"client = OpenAI(base_url={_text(url)}, api_key={secret})",
        f"answer = client.chat.completions.create(model={_text(model)}, messages={_HELLO})",
        "print(answer.choices[0].message.content)",
    ]


def _text(text: str) -> str:
    """A string of Python, in double quotes."""
    return json.dumps(text, ensure_ascii=False)
