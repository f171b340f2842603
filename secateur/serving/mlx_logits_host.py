"""mlx-lm's logits of given tokens, in a process of its own: started by `host_process.py` as a file.

It imports nothing of secateur, and talks as `llama_logits_host.py` does, without experts.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def load(order: Mapping[str, Any]) -> Callable[[list[int]], Any]:
    """The model as a function from tokens to logits [T, V]."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    mx: Any = importlib.import_module("mlx.core")
    lm: Any = importlib.import_module("mlx_lm")
    network, _ = lm.load(order["model"])
    if mx.default_device().type == mx.DeviceType.cpu:
        network.set_dtype(mx.float32)

    def run(tokens: list[int]) -> Any:
        return np.array(network(mx.array([tokens]))[0].astype(mx.float32))

    return run


def main() -> None:
    """Load what the first line orders, then answer every further one."""
    try:
        run = load(json.loads(sys.stdin.readline()))
        vocab = run([0]).shape[-1]
    except ImportError as error:
        print(f"failed {error}: pip install mlx-lm", flush=True)
        return
    except Exception as error:  # whatever mlx-lm raises of a model
        print(f"failed {(str(error) or type(error).__name__).splitlines()[0]}", flush=True)
        return
    print(f"ready {json.dumps({'vocab': vocab})}", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        logits = run(order["tokens"])[order["wanted"]]
        sys.stdout.buffer.write(np.ascontiguousarray(logits, np.float32).data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # words on standard output would be taken for numbers
        sys.stderr.write(f"0 E {error}\n")
        sys.stderr.flush()
    os._exit(0)
