"""An MLX folder served by mlx-lm's own server, in a process that ends with the block.

It asks for no key, knows no budget of thoughts, and says neither ids of tokens nor its context, so
what needs those is refused here rather than ignored there.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from secateur.errors import EngineError, RequestError
from secateur.serving.engine import EngineServer
from secateur.serving.host_process import start_host
from secateur.serving.http_json import request_json
from secateur.serving.identity import ServerIdentity, hash_library, hash_text
from secateur.serving.model_defaults import ModelDefaults, folder_defaults
from secateur.serving.port import check_port, free_port, local_address
from secateur.serving.settings import CONTEXT, LOOPBACK, Sampler, ServerSettings
from secateur.system.log_file import open_log
from secateur.system.text_files import read_text

NAME = "mlx-lm"
ALIAS = "default_model"
"""What mlx_lm.server calls the model that it was started with; it looks for others on the hub."""
_HOST = Path(__file__).with_name("mlx_host.py")


@contextmanager
def serve_mlx(path: Path, settings: ServerSettings, log: Path | None) -> Iterator[EngineServer]:
    """Serve an MLX folder; see `engine_server.serve_model`."""
    defaults = folder_defaults(path)
    _refuse(settings, path, defaults)
    sampler = settings.sampler.over(defaults.sampler)
    check_port(settings.host, settings.port)
    port = settings.port or free_port(settings.host)
    address = local_address(settings.host, port)
    version, library = hash_library(NAME, "server.py")
    with tempfile.TemporaryDirectory() as hub_cache, open_log(log) as file:
        order = {
            "model": str(path),
            "address": address,
            "hub_cache": hub_cache,
            "arguments": [
                *("--host", settings.host, "--port", str(port)),
                *_arguments(settings, sampler, defaults),
            ],
        }
        with start_host(NAME, _HOST, order, file, defaults.nbytes) as host:
            identity = ServerIdentity(
                engine=NAME,
                package=NAME,
                version=version,
                library_sha256=library,
                template_sha256=_template(path),
                context=defaults.trained_context,
                slots=settings.slots,
                flags={
                    "thinking": asdict(settings.thinking),
                    "sampler": asdict(sampler),
                    "mlx": metadata.version("mlx"),
                },
            )
            server = EngineServer(
                address, None, ALIAS, identity, sampler,
                host.process.pid, host.failure, host.wait,
            )  # fmt: skip
            _check_answers(address, path)
            yield server


def _arguments(
    settings: ServerSettings, sampler: Sampler, defaults: ModelDefaults
) -> Iterator[str]:
    """Options of mlx_lm.server (0.32)."""
    context = settings.context or min(CONTEXT, defaults.trained_context or CONTEXT)
    for option, value in (
        ("--temp", sampler.temperature),
        ("--top-p", sampler.top_p),
        ("--top-k", sampler.top_k),
        ("--min-p", sampler.min_p),
        ("--decode-concurrency", settings.slots),
        # Else an answer whose request says nothing is cut after 512.
        ("--max-tokens", context),
    ):
        yield from (option, str(value))
    if settings.thinking.enabled is not None:
        yield "--chat-template-args"
        yield json.dumps({"enable_thinking": settings.thinking.enabled})


def _refuse(settings: ServerSettings, path: Path, defaults: ModelDefaults) -> None:
    """Raise RequestError for what mlx_lm.server would ignore."""
    trained = defaults.trained_context
    asked = settings.sampler
    ignored = {
        "an API key": settings.api_key is not None or settings.host not in LOOPBACK,
        "reasoning_budget": settings.thinking.budget is not None,
        "gpu_layers": settings.gpu_layers is not None,
        "repeat_penalty": asked.repeat_penalty not in (None, 1.0),
        "dry_multiplier": asked.dry_multiplier not in (None, 0.0),
        "a seed for all requests": asked.seed is not None,
        "an alias": settings.alias is not None,
    }
    if named := [name for name, given in ignored.items() if given]:
        raise RequestError(
            f"{path} is served by mlx_lm.server, which does not know {', '.join(named)}: leave "
            "that out, or serve a GGUF"
        )
    if settings.context is not None and trained is not None and settings.context > trained:
        raise RequestError(
            f"context is {settings.context}, but {path} was made for at most {trained} tokens: "
            "give at most so many"
        )


def _template(path: Path) -> str | None:
    file = path / "chat_template.jinja"
    if not file.is_file():
        return None
    return hash_text(read_text(file, "a chat template", RequestError))


def _check_answers(address: str, path: Path) -> None:
    """Ask for one token: on some machines mlx fails only then, and closes the connection."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    try:
        request_json(f"{address}/v1/chat/completions", body)
    except EngineError as error:
        raise EngineError(
            f"{NAME} loaded {path} but does not answer: {error}. On a CPU mlx multiplies experts "
            "in float32 only: serve a GGUF there"
        ) from None
