"""A turn of an MLX folder in mlx-lm, in a process of its own (`mlx_host.py`)."""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secateur.errors import EngineError, RequestError
from secateur.evaluation.speed.turn import Turn
from secateur.serving.host_process import Host, start_host
from secateur.serving.model_defaults import model_bytes
from secateur.system.process_use import peak_memory

ENGINE = "mlx-lm"
_HOST = Path(__file__).with_name("mlx_host.py")


def take_turn(path: Path, prompt: Sequence[int], tokens: int) -> Turn:
    """Load a folder, and time one prompt of it, after another one that puts everything in its
    place. Raises EngineError, RequestError where mlx-lm is not installed."""
    if importlib.util.find_spec("mlx_lm") is None:
        raise RequestError(
            f"the speed of {path} is measured in mlx-lm, which is not installed: pip install mlx-lm"
        )
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        start_host(ENGINE, _HOST, {"model": os.path.abspath(path)}, log, model_bytes(path)) as host,
    ):
        _ask(host, prompt[::-1], 2)
        found = _ask(host, prompt, tokens)
        peak = peak_memory(host.process.pid)
        return Turn(**{**found, "peak_memory": peak or found["peak_memory"]})


def _ask(host: Host, prompt: Sequence[int], tokens: int) -> dict[str, Any]:
    process, line = host.process, ""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps({"prompt": list(prompt), "tokens": tokens}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        found = json.loads(line)
    except (OSError, ValueError):
        said = line.strip().removeprefix("failed ")
        reason = f"{ENGINE} with {host.model} did not answer: {said}" if said else host.failure()
        raise EngineError(reason or f"{ENGINE} with {host.model} ended") from None
    return dict(found)
