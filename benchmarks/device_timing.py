"""How long passes over a model take on a device, and what device and disk can do at most."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_weights import (
    Random,
    _AsTheyAre,
    forget_files,
)
from torch import Tensor

from secateur.calibration import layer_pass
from secateur.calibration.token_sample import Sampling
from secateur.checkpoint.reader import Checkpoint
from secateur.corpus.rows import Corpus
from secateur.forward.backends.grouped_products import wait_for
from secateur.forward.backends.torch_device import TorchDevice
from secateur.forward.batches import make_micro_batches
from secateur.forward.skeleton import build_skeleton, fill_parameters
from secateur.forward.stream import ForwardPass
from secateur.statistics.gram import GramKind


class Clock:
    """Seconds of the layers of a calibration, without what comes before and after."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0

    @contextmanager
    def watch(self) -> Iterator[None]:
        run = layer_pass._run_layers

        def timed(*given: Any) -> Any:
            wait_for(self.device)
            begun = time.perf_counter()
            found = run(*given)
            wait_for(self.device)
            self.seconds = time.perf_counter() - begun
            return found

        layer_pass._run_layers = timed
        try:
            yield
        finally:
            layer_pass._run_layers = run


def best_of(times: int, work: Callable[[], float]) -> list[float]:
    return [work() for _ in range(times)]


def time_calibration(
    checkpoint: Checkpoint, backend: TorchDevice, corpus: Corpus, sampled: int
) -> float:
    clock = Clock(backend.device)
    with clock.watch():
        layer_pass.calibrate(checkpoint, corpus, sampling=Sampling(sampled), backend=backend)
    return clock.seconds


def time_grams(
    checkpoint: Checkpoint, backend: TorchDevice, corpus: Corpus, kind: GramKind
) -> float:
    """The pass with Gram matrices of as many tokens as `calibrate` takes, written to their file."""
    clock = Clock(backend.device)
    with tempfile.TemporaryDirectory() as folder, clock.watch():
        sampling = Sampling(0, gram=kind, gram_file=Path(folder) / "gram.safetensors")
        layer_pass.calibrate(checkpoint, corpus, sampling=sampling, backend=backend)
    return clock.seconds


def time_plain(source: Random, backend: TorchDevice, corpus: Corpus) -> float:
    """The pass without sums."""
    checkpoint = source.checkpoint
    hidden = checkpoint.family.number(checkpoint.config, "hidden")
    batches = make_micro_batches(corpus.rows, hidden, backend.batch_size)
    with ForwardPass(source, batches, backend) as forward:
        wait_for(backend.device)
        begun = time.perf_counter()
        for layer in range(checkpoint.layers):
            with forward.load_layer(layer) as module:
                forward.run(module, layer)
        forward.finish()
        wait_for(backend.device)
        return time.perf_counter() - begun


def time_transformers(
    source: Random, backend: TorchDevice, corpus: Corpus, function: str, tokens: int
) -> list[float]:
    """transformers' own forward of all layers, with the same weights in bfloat16."""
    model = build_skeleton(source, backend)
    model.set_experts_implementation(function)
    names = {n: n for n in model.state_dict() if not n.startswith("lm_head.")}
    with fill_parameters(model, names, _AsTheyAre(source)), torch.inference_mode():
        lines = max(1, tokens // len(corpus.rows[0].input_ids))
        ids = [torch.from_numpy(np.stack([row.input_ids for row in corpus.rows[i : i + lines]]))
               for i in range(0, len(corpus.rows), lines)]  # fmt: skip
        embedded = [model.model.embed_tokens(part.to(backend.device)) for part in ids]

        def once() -> float:
            wait_for(backend.device)
            begun = time.perf_counter()
            for part in embedded:
                model.base_model(inputs_embeds=part, use_cache=False)
            wait_for(backend.device)
            return time.perf_counter() - begun

        once()
        return best_of(3, once)


def read_rate(folder: Path, threads: int) -> float:
    """Bytes per second that the disk gives to several readers, of files not held in memory."""
    from concurrent.futures import ThreadPoolExecutor

    forget_files(folder)
    files = sorted(folder.glob("model-[0-9]*.safetensors"))[:6]

    def read(part: tuple[Path, int, int]) -> int:
        path, start, size = part
        buffer = bytearray(16 << 20)
        done = 0
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while done < size and (got := file.readinto(buffer)):
                done += got
        return done

    parts = []
    for path in files:
        size = path.stat().st_size
        each = size // threads + 1
        parts += [(path, start, each) for start in range(0, size, each)]
    begun = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(read, parts))
    return total / (time.perf_counter() - begun)


def ceilings(device: torch.device, small: bool) -> dict[str, float]:
    """FLOP/s of one large bfloat16 and float32 product; bytes/s from locked memory."""
    found = {}
    size = 1024 if small else 8192
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32")):
        one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

        def product(one: Tensor = one, other: Tensor = other) -> float:
            wait_for(device)
            begun = time.perf_counter()
            for _ in range(3):
                one @ other
            wait_for(device)
            return (time.perf_counter() - begun) / 3

        product()
        found[f"{name}_flops"] = 2.0 * size**3 / min(best_of(3, product))
    if device.type == "cuda":
        host = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
        there = torch.empty_like(host, device=device)

        def copy_once() -> float:
            wait_for(device)
            begun = time.perf_counter()
            there.copy_(host, non_blocking=True)
            wait_for(device)
            return time.perf_counter() - begun

        found["to_device_bytes"] = (1 << 30) / min(best_of(4, copy_once))
    return found


def active_flops(checkpoint: Checkpoint) -> float:
    """Floating point operations of all layers per token, without attention over the context."""
    total = 0.0
    for name, place in checkpoint.matches.items():
        if place.layer is None or not place.row.axes or len(checkpoint.specs[name].shape) < 2:
            continue
        share = checkpoint.top_k / checkpoint.experts if place.role.startswith("expert.") else 1.0
        total += 2.0 * share * checkpoint.specs[name].elements
    return total


def summary(seconds: Sequence[float], tokens: int, flops: float, limit: float) -> dict[str, Any]:
    best = min(seconds)
    return {
        "seconds": [round(one, 4) for one in seconds],
        "tokens_per_second": round(tokens / best),
        "share_of_matrix_limit": round(flops * tokens / best / limit, 3),
    }


def profile(work: Callable[[], Any]) -> str:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    with record(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        work()
    averages = found.key_averages()
    return (
        averages.table(sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=90)
        + "\n"
        + averages.table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=60)
    )
