"""A GGUF served by llama.cpp (in xllamacpp), in a process that ends with the block.

What it is asked for is compared with what it says of itself (`/props`) before anybody uses it:
llama.cpp caps a context in silence, and takes samplers from the file's metadata.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from secateur.errors import EngineError, RequestError
from secateur.formats.gguf.container import padded
from secateur.serving.engine import EngineServer
from secateur.serving.host_process import start_host
from secateur.serving.http_json import request_json
from secateur.serving.identity import ServerIdentity, hash_file, hash_library, hash_text
from secateur.serving.llama_server import HOST, NAME
from secateur.serving.model_defaults import ModelDefaults, gguf_defaults
from secateur.serving.port import check_port, local_address
from secateur.serving.settings import CONTEXT, Sampler, ServerSettings
from secateur.system.log_file import open_log
from secateur.system.resources import cores, free_memory

_CELLS = 256
"""llama.cpp rounds a slot's context up to a multiple of so many."""
_CACHE_MIB = 8192
"""llama.cpp's own default of memory for prompts of earlier requests; less where there is less."""
_KEYS = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "dry_multiplier")


@contextmanager
def serve_gguf(path: Path, settings: ServerSettings, log: Path | None) -> Iterator[EngineServer]:
    """Serve a GGUF (of a split one its first file) until the block ends.

    `log` is appended to; without one the engine's log is kept for messages of errors alone. Raises
    RequestError for settings that the model or the engine cannot hold, FormatError for a damaged
    file, EngineError with the engine's own words when it does not load.
    """
    defaults = gguf_defaults(path)
    check_port(settings.host, settings.port)
    context = slot_context(settings, defaults, path)
    sampler = settings.sampler.over(defaults.sampler)
    alias = settings.alias or path.stem
    order = {
        "model": str(path),
        "context": context * settings.slots,
        "slots": settings.slots,
        "workers": settings.workers or cores(),
        "gpu_layers": settings.gpu_layers,
        "exact": False,
        "host": settings.host,
        "port": settings.port,
        "api_key": settings.api_key,
        "alias": alias,
        "cache_mib": min(_CACHE_MIB, free_memory() // 8 >> 20),
        "sampler": asdict(sampler),
        "thinking": asdict(settings.thinking),
        "vision_tower": None if settings.mmproj is None else str(settings.mmproj),
    }
    version, library = hash_library("xllamacpp", "*.so")
    with (
        open_log(log) as file,
        start_host(NAME, HOST, order, file, defaults.nbytes) as host,
    ):
        port = int(host.facts["address"].rpartition(":")[2])
        address = local_address(settings.host, port)
        props = request_json(address + "/props", key=settings.api_key)
        _check_props(props, context, settings.slots, sampler)
        _check_sees(props, settings.mmproj)
        identity = ServerIdentity(
            engine=NAME,
            package="xllamacpp",
            version=version,
            library_sha256=library,
            template_sha256=hash_text(props["chat_template"]),
            context=int(props["default_generation_settings"]["n_ctx"]),
            slots=settings.slots,
            flags=_flags(settings, sampler, host.facts["devices"]),
        )
        yield EngineServer(
            address, settings.api_key, alias, identity, sampler,
            host.process.pid, host.failure, host.wait,
        )  # fmt: skip


def slot_context(settings: ServerSettings, defaults: ModelDefaults, path: Path) -> int:
    """Tokens of context of a slot, as llama.cpp counts them. Raises RequestError for more than the
    model was trained for, which llama.cpp would cut in silence."""
    trained = defaults.trained_context
    if settings.context is None:
        return padded(min(CONTEXT, trained or CONTEXT), _CELLS)
    if trained is not None and settings.context > trained:
        raise RequestError(
            f"context is {settings.context}, but {path} was made for at most {trained} tokens: "
            "give at most so many"
        )
    return padded(settings.context, _CELLS)


def _flags(settings: ServerSettings, sampler: Sampler, devices: list[str]) -> dict[str, Any]:
    """Settings that decide answers, and where they are computed."""
    return {
        "thinking": asdict(settings.thinking),
        "sampler": asdict(sampler),
        "gpu_layers": settings.gpu_layers if devices else 0,
        "devices": devices,
        "cache": "F16",
        "flash_attention": "auto",
        **({} if settings.mmproj is None else {"mmproj_sha256": hash_file(settings.mmproj)}),
    }


def _check_sees(props: Mapping[str, Any], mmproj: Path | None) -> None:
    """Raise EngineError where a vision tower was given and the server says that it sees nothing."""
    if mmproj is not None and not (props.get("modalities") or {}).get("vision"):
        raise EngineError(
            f"llama.cpp did not take {mmproj} for the vision tower of this model: leave it out, or "
            "give the file that was made of the same model"
        )


def _check_props(props: Mapping[str, Any], context: int, slots: int, sampler: Sampler) -> None:
    """Compare what the server says of itself with what was asked. Raises EngineError."""
    try:
        defaults = props["default_generation_settings"]
        wrong = [
            f"{name} {have} instead of {asked}"
            for name, asked, have in (
                ("a context of", context, defaults["n_ctx"]),
                ("slots", slots, props["total_slots"]),
                *((key, getattr(sampler, key), defaults["params"][key]) for key in _KEYS),
            )
            if not math.isclose(have, asked, rel_tol=1e-6, abs_tol=1e-7)
        ]
    except (KeyError, TypeError) as error:
        raise EngineError(
            f"llama.cpp does not say {error} of itself: install another version of xllamacpp"
        ) from None
    if wrong:
        raise EngineError(f"llama.cpp did not do what it was asked for: {', '.join(wrong)}")
