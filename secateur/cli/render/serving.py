"""What `serve` says: the memory it takes, the address, and how to call it."""

from __future__ import annotations

import json
from pathlib import Path
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
        f"{identity.engine} ({identity.package} {identity.version}), {slots}; {drawn}",
        *described["sentences"],
        f"log: {described['log']}",
        "",
        *_curl(server, settings, key),
        "",
        *_python(server, settings, key),
        "",
        "Ctrl-C stops it.",
    ]


def _curl(server: EngineServer, settings: ServerSettings, key: Path | None) -> list[str]:
    body = json.dumps({"model": server.alias, "messages": _HELLO})
    words = [f"curl {server.url}/chat/completions", "-H 'Content-Type: application/json'"]
    if settings.api_key is not None:
        secret = f"${KEY_VARIABLE}" if key is None else f"$(cat {key})"
        words.append(f'-H "Authorization: Bearer {secret}"')
    return [" ".join([*words, f"-d '{body}'"])]


def _python(server: EngineServer, settings: ServerSettings, key: Path | None) -> list[str]:
    lines = ["from openai import OpenAI"]
    secret = '"none"'
    if settings.api_key is not None and key is not None:
        secret = f"open({str(key)!r}).read().strip()"
    elif settings.api_key is not None:
        lines.insert(0, "import os")
        secret = f'os.environ["{KEY_VARIABLE}"]'
    return [
        *lines,
        f'client = OpenAI(base_url="{server.url}", api_key={secret})',
        f'answer = client.chat.completions.create(model="{server.alias}", messages={_HELLO})',
        "print(answer.choices[0].message.content)",
    ]
