"""llama.cpp's server in a process of its own, started by `host_process.py` as a file.

It imports nothing of secateur. What to serve comes as one line of JSON on standard input, so that
a key is in no list of processes. It prints one line, `ready {"address": ...}`, `refused REASON` (an
order that it cannot fulfil) or `failed REASON`, and lives until its standard input is closed, hence
never longer than the process that started it.
A process of its own, because ggml aborts the whole process where Python would raise.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

_SAMPLING = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "penalty_repeat",
    "dry_multiplier": "dry_multiplier",
    "seed": "seed",
}
"""Field of serving.settings.Sampler -> field of CommonParamsSampling."""


def main(order: Mapping[str, Any]) -> None:
    """Serve what is ordered. Llama.cpp's log goes to standard error."""
    xllamacpp: Any = importlib.import_module("xllamacpp")
    devices = [device for device in xllamacpp.get_device_info() if _is_gpu(device)]
    if order["gpu_layers"] and not devices:
        print("refused there is no GPU that this build of xllamacpp can use", flush=True)
        return
    params = xllamacpp.CommonParams()
    params.model.path = order["model"]
    params.n_ctx = order["context"]
    params.n_parallel = order["slots"]
    if order["gpu_layers"] is not None:
        params.n_gpu_layers = order["gpu_layers"]
    params.cpuparams.n_threads = order["workers"]
    params.cpuparams_batch.n_threads = order["workers"]
    params.ui = False
    params.warmup = False
    if order["exact"]:
        _be_exact(params, xllamacpp)
    else:
        _be_served(params, order, xllamacpp)
    server = xllamacpp.Server(params)
    facts = {
        "address": server.listening_address,
        "devices": [f"{device['name']} {device['description']}" for device in devices],
        "build": dict(xllamacpp.BUILD_INFO),
    }
    print(f"ready {json.dumps(facts)}", flush=True)
    sys.stdin.read()


def _be_exact(params: Any, xllamacpp: Any) -> None:
    """As exact as it gets: no flash attention, keys and values in float32."""
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.verbosity = 1


def _be_served(params: Any, order: Mapping[str, Any], xllamacpp: Any) -> None:
    """As people serve it: llama.cpp's defaults, and what is asked for."""
    params.hostnames = [order["host"]]
    params.port = order["port"]
    params.api_keys = [order["api_key"]] if order["api_key"] else []
    # Else any page in the user's browser could ask; with a key it has to know that.
    params.cors_origins = "*" if order["api_key"] else ""
    params.model_alias = {order["alias"]}
    params.cache_ram_mib = order["cache_mib"]
    params.verbosity = 3
    if order["vision_tower"] is not None:
        params.mmproj.path = order["vision_tower"]
    # Else llama.cpp would take those that a GGUF's metadata names, whatever is set here.
    params.sampling.user_sampling_config = sum(
        int(bit) for bit in xllamacpp.common_params_sampling_config
    )
    for name, field in _SAMPLING.items():
        if order["sampler"][name] is not None:
            setattr(params.sampling, field, order["sampler"][name])
    thinking = order["thinking"]
    params.enable_reasoning = -1 if thinking["enabled"] is None else int(thinking["enabled"])
    if thinking["budget"] is not None:
        params.sampling.reasoning_budget_tokens = thinking["budget"]
        params.sampling.reasoning_budget_message = thinking["message"]


def _is_gpu(device: Mapping[str, Any]) -> bool:
    return "GPU" in device["type"].name


if __name__ == "__main__":
    try:
        main(json.loads(sys.stdin.readline()))
    except (RuntimeError, ImportError) as error:
        print(f"failed {error}", flush=True)
        sys.stderr.flush()
    # The server's threads would keep the interpreter from ending.
    os._exit(0)
