"""A turn of a GGUF in llama.cpp, as it is served.

The server is started for the turn, and reads another prompt first, so that the weights are in
memory; the prompt that is timed is in no cache. Times are those that `/completion` reports, the
first token is when it arrives here.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from secateur.errors import EngineError
from secateur.evaluation.speed.turn import Turn
from secateur.serving.engine_server import EngineServer, serve_model
from secateur.serving.http_json import ANSWER_SECONDS
from secateur.serving.settings import ServerSettings
from secateur.system.process_use import cpu_seconds, peak_memory

ENGINE = "llama.cpp"
_SPARE = 16
"""Tokens of context beyond prompt and answer."""


def take_turn(path: Path, serving: ServerSettings, prompt: Sequence[int], tokens: int) -> Turn:
    """Serve a GGUF, and time one prompt of it with an answer of so many tokens. Its context is as
    long as that takes. Raises EngineError and what `serve_model` does."""
    room = replace(serving, context=len(prompt) + tokens + _SPARE, slots=1)
    with serve_model(path, room) as server:
        server.ask("/completion", _request(prompt[::-1], 2))
        return _timed(server, prompt, tokens)


def _timed(server: EngineServer, prompt: Sequence[int], tokens: int) -> Turn:
    before = cpu_seconds(server.pid)
    begun = time.perf_counter()
    first_token: float | None = None
    at_first: float | None = None
    timings: Mapping[str, Any] = {}
    for event in _stream(server, {**_request(prompt, tokens), "stream": True}):
        if first_token is None:
            first_token, at_first = time.perf_counter() - begun, cpu_seconds(server.pid)
        timings = event.get("timings") or timings
    after = cpu_seconds(server.pid)
    try:
        read, written = int(timings["prompt_n"]), int(timings["predicted_n"])
        seconds = timings["prompt_ms"] / 1000, timings["predicted_ms"] / 1000
    except (KeyError, TypeError, ValueError):
        raise EngineError(
            f"{ENGINE} gave no timings: install another version of xllamacpp"
        ) from None
    if first_token is None or written != tokens or read != len(prompt):
        raise EngineError(
            f"{ENGINE} read {read} tokens and wrote {written}, expected {len(prompt)} and {tokens}"
        )
    return Turn(
        read,
        written,
        *seconds,
        first_token,
        _since(before, at_first),
        _since(at_first, after),
        peak_memory(server.pid),
    )


def _request(prompt: Sequence[int], tokens: int) -> dict[str, Any]:
    return {
        "prompt": list(prompt),
        "n_predict": tokens,
        "ignore_eos": True,
        "cache_prompt": False,
        "temperature": 0,
        "return_tokens": True,
    }


def _stream(server: EngineServer, request: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The events of a streamed completion, as they arrive. Raises EngineError."""
    where = urlsplit(server.address)
    headers = {"Content-Type": "application/json"}
    if server.api_key is not None:
        headers["Authorization"] = f"Bearer {server.api_key}"
    connection = http.client.HTTPConnection(where.netloc, timeout=ANSWER_SECONDS)
    try:
        connection.request("POST", "/completion", json.dumps(request), headers)
        response = connection.getresponse()
        if response.status != http.client.OK:
            reason = response.read().decode("utf-8", "replace")[:300]
            raise EngineError(f"{ENGINE} did not complete a prompt: {reason}")
        for line in response:
            if line.startswith(b"data: {"):
                yield json.loads(line.removeprefix(b"data: "))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise EngineError(f"{ENGINE} did not complete a prompt: {error}") from None
    finally:
        connection.close()


def _since(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
