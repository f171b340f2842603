"""llama.cpp's server in a process of its own: `python llama_host.py MODEL CONTEXT THREADS LAYERS`.

Started by `llama_server.py` as a file, so it imports nothing of secateur. It prints one line,
`ready ADDRESS`, and lives until its standard input is closed, hence never longer than the process
that started it. LAYERS is the number of layers that run on a GPU.
A process of its own, because ggml aborts the whole process where Python would raise.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def main(model: str, context: int, threads: int, gpu_layers: int) -> None:
    """Serve on a free port of the loopback. Llama.cpp's errors go to standard error."""
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = context
    params.n_parallel = 1
    params.n_gpu_layers = gpu_layers
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    # As exact as it gets: no flash attention, keys and values in float32.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.warmup = False
    params.ui = False
    params.verbosity = 1
    server = xllamacpp.Server(params)
    print(f"ready {server.listening_address}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    try:
        main(sys.argv[1], *map(int, sys.argv[2:5]))
    except (RuntimeError, ImportError) as error:
        print(f"failed {error}", flush=True)
        sys.stderr.flush()
    # The server's threads would keep the interpreter from ending.
    os._exit(0)
