"""mlx-lm in a process of its own, started by `serving/host_process.py` as a file.

It imports nothing of secateur. The model's folder comes as one line of JSON on standard input, then
prompts, a line each: {"prompt": [ids], "tokens": n}; each is answered with what it took.
On a CPU, MLX multiplies by experts in float32 only, so that weights in 16 bits are widened there.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from typing import Any


def main() -> None:
    """Load what is ordered, and time prompts until the input is closed."""
    order = json.loads(sys.stdin.readline())
    mx: Any = importlib.import_module("mlx.core")
    load: Any = importlib.import_module("mlx_lm").load
    step: Any = importlib.import_module("mlx_lm.generate").generate_step
    model, _ = load(order["model"])
    on_cpu = mx.default_device().type == mx.DeviceType.cpu
    if on_cpu:
        model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    facts = {
        "device": "cpu" if on_cpu else "gpu",
        "products": "float32" if on_cpu else "as stored",
        "mlx": mx.__version__,
    }
    print(f"ready {json.dumps(facts)}", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(_time(mx, step, model, asked["prompt"], asked["tokens"])), flush=True)


def _time(mx: Any, step: Any, model: Any, prompt: list[int], tokens: int) -> dict[str, Any]:
    cpu, begun = time.process_time(), time.perf_counter()
    marks = []
    for token, _ in step(mx.array(prompt), model, max_tokens=tokens):
        mx.eval(token)
        marks.append((time.perf_counter(), time.process_time()))
    (first, first_cpu), (last, last_cpu) = marks[0], marks[-1]
    return {
        "prompt_tokens": len(prompt),
        "answer_tokens": len(marks) - 1,  # the first one comes with the prompt
        "prompt_seconds": first - begun,
        "answer_seconds": last - first,
        "first_token": first - begun,
        "prompt_cpu": first_cpu - cpu,
        "answer_cpu": last_cpu - first_cpu,
        "peak_memory": _peak(),
    }


def _peak() -> int:
    """Bytes, as getrusage counts them: KiB on Linux, where whoever started this asks the system
    (a process begins there with the peak of its parent), and bytes on macOS."""
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        print(f"failed {error}".replace("\n", " "), flush=True)
