"""A model served by a real engine, in a process that ends with the block: OpenAI's protocol."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secateur.serving.engine import EngineServer
from secateur.serving.llama_serving import serve_gguf
from secateur.serving.mlx_serving import serve_mlx
from secateur.serving.settings import DEFAULT_SETTINGS, ServerSettings

__all__ = ["EngineServer", "serve_model"]


@contextmanager
def serve_model(
    path: Path, settings: ServerSettings = DEFAULT_SETTINGS, log: Path | None = None
) -> Iterator[EngineServer]:
    """Serve a GGUF (of a split one its first file) by llama.cpp, or an MLX folder by mlx-lm.

    `log` is appended to; without one the engine's log is kept for messages of errors alone. Raises
    RequestError for settings that the model or the engine cannot hold, FormatError or
    CheckpointError for a damaged file, EngineError with the engine's own words when it does not
    load.
    """
    path = Path(os.path.abspath(path))
    with (serve_mlx if path.is_dir() else serve_gguf)(path, settings, log) as server:
        yield server
