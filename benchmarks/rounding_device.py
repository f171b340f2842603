"""Encoding with error feedback on a GPU, beside the cores of its machine: rounding_device.json.

Blocks of half a million numbers in rows as wide as Gemma 4 26B-A4B's (2816), over inputs whose
columns are mixed at random; as many threads as cores. For each type: blocks a second of the nearest
encoder alone, with feedback on the cores, with feedback on the GPU, and of the GPU's part alone;
how much longer than nearest it takes; what a block takes one thread, and the first of a type, which
is compiled unless it was before; the share of codes that differ between GPU and cores, and the
squared error over the Gram matrix of the GPU's over that of the cores; and whether one thread and
all of them give the same bytes.

    python benchmarks/rounding_device.py [--types Q4_K affine-4-64] [--seconds 1.2]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from goals import result_path, write_result

from secateur.formats.ggml.codec import encode
from secateur.formats.mlx.codec import mlx_type, quantize
from secateur.outputs.blocks import ELEMENTS
from secateur.rounding.device_feedback import DeviceChooser, open_chooser
from secateur.rounding.factor import Factor, factorize
from secateur.rounding.feedback import choose
from secateur.rounding.ggml_grids import GGML_GRIDS
from secateur.rounding.mlx_grids import MlxGrid

TYPES = ("Q4_K", "Q2_K", "Q3_K", "Q4_0", "affine-4-64")
COLUMNS = 2816
BLOCKS = 32
"""Blocks of different numbers."""


class Work:
    """What is done with a block of one type; blocks are counted from 0, and come again."""

    def __init__(self, name: str, gram: Any, tokens: int, chance: np.random.Generator) -> None:
        rows = ELEMENTS // COLUMNS
        self.blocks = [
            (chance.standard_normal((rows, COLUMNS)) * 0.02).astype(np.float32)
            for _ in range(BLOCKS)
        ]
        self.gram = gram.astype(np.float64) / gram.mean()
        self.grid: Any
        if name in GGML_GRIDS:
            self.grid = GGML_GRIDS[name]
            self.encode: Callable[..., Any] = partial(
                encode, type_name=name, importance=np.ones(COLUMNS, np.float32)
            )
        else:
            self.grid = MlxGrid(mlx_type(name), "BF16")
            self.encode = partial(quantize, kind=self.grid.kind, dtype="BF16")
        factor = factorize(gram, self.grid.groups, tokens)
        assert factor is not None
        self.factor: Factor = factor

    def nearest(self, number: int) -> Any:
        return self.encode(self.blocks[number % BLOCKS])

    def feedback(self, number: int, chosen_by: Any = None) -> Any:
        rows = self.blocks[number % BLOCKS]
        return self.grid.round(rows, self.encode(rows), self.factor, chosen_by)

    def given(self) -> tuple[Any, ...]:
        """What a chooser is given for the first block."""
        rows = self.blocks[0]
        return rows, self.grid.choices(self.encode(rows), COLUMNS), self.grid.levels, self.factor

    def squared_error(self, codes: Any, scales: Any) -> float:
        """Of the first block, over the Gram matrix."""
        scale, offset = (np.repeat(one, self.grid.groups.size, 1) for one in scales)
        wrong = (self.blocks[0] - (scale * self.grid.levels.values[codes] + offset)).astype(float)
        return float(np.einsum("rc,rc->", wrong @ self.gram, wrong))


def rate(work: Callable[[int], object], threads: int, seconds: float) -> float:
    """Blocks a second."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(2 * threads)))
        begun, done = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            done += len(list(pool.map(work, range(4 * threads))))
        return done / (time.perf_counter() - begun)


def milliseconds(work: Callable[[], object]) -> float:
    """The middle one of seven turns."""
    took = []
    for _ in range(7):
        begun = time.perf_counter()
        work()
        took.append(1000 * (time.perf_counter() - begun))
    return round(sorted(took)[3], 2)


def measure(work: Work, chooser: DeviceChooser, threads: int, seconds: float) -> dict[str, Any]:
    given = work.given()
    begun = time.perf_counter()
    on_device = chooser(*given)
    first = time.perf_counter() - begun
    on_cores = choose(*given)
    on_gpu = partial(work.feedback, chosen_by=chooser)
    same = same_in_threads(on_gpu, threads)
    rates = {
        "nearest": rate(work.nearest, threads, seconds),
        "feedback, cores": rate(work.feedback, threads, seconds),
        "feedback, GPU": rate(on_gpu, threads, seconds),
        "GPU alone": rate(lambda number: chooser(*given), threads, seconds),
    }
    return {
        "blocks_per_second": {name: round(value, 1) for name, value in rates.items()},
        "over_nearest": {
            name: round(rates["nearest"] / rates[f"feedback, {name}"], 2)
            for name in ("cores", "GPU")
        },
        "gpu_over_cores": round(rates["feedback, GPU"] / rates["feedback, cores"], 2),
        "block_ms": {
            "nearest": milliseconds(lambda: work.nearest(0)),
            "choosing, core": milliseconds(lambda: choose(*given)),
            "choosing, GPU": milliseconds(lambda: chooser(*given)),
        },
        "first_block_seconds": round(first, 1),
        "codes_that_differ": float(np.mean(on_device[0] != on_cores[0])),
        "scales_that_differ": float(np.mean(on_device[1].scale != on_cores[1].scale)),
        "squared_error_over_cores": work.squared_error(*on_device) / work.squared_error(*on_cores),
        "same_bytes_in_one_thread": same,
    }


def same_in_threads(work: Callable[[int], Any], threads: int) -> bool:
    """Whether one thread and all of them make the same of every block."""
    alone = [work(number) for number in range(BLOCKS)]
    with ThreadPoolExecutor(threads) as pool:
        together = list(pool.map(work, range(BLOCKS)))
    return all(
        np.array_equal(one, other)
        for pair in zip(alone, together, strict=True)
        for one, other in zip(*map(arrays_of, pair), strict=True)
    )


def arrays_of(encoded: Any) -> list[Any]:
    """The arrays of what an encoder made."""
    parts = encoded if isinstance(encoded, tuple) else (encoded,)
    return [part for part in parts if part is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", nargs="+", default=TYPES)
    parser.add_argument("--seconds", type=float, default=1.2)
    options = parser.parse_args()
    threads, device = os.cpu_count() or 1, torch.device("cuda", 0)
    chooser = open_chooser(device, 1 << 30)
    if isinstance(chooser, str):
        raise SystemExit(f"no codes are chosen on a GPU here: {chooser}")
    chance = np.random.default_rng(0)
    tokens = 2 * COLUMNS
    mixing = chance.standard_normal((COLUMNS, COLUMNS), np.float32) / np.sqrt(COLUMNS)
    inputs = chance.standard_normal((tokens, COLUMNS), np.float32)
    inputs = inputs @ (np.eye(COLUMNS, dtype=np.float32) + mixing)
    inputs *= np.exp(0.5 * chance.standard_normal(COLUMNS, np.float32))
    report: dict[str, Any] = {
        "card": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "threads": threads,
        "columns": COLUMNS,
        "types": {},
    }
    for name in options.types:
        work = Work(name, inputs.T @ inputs, tokens, chance)
        report["types"][name] = measure(work, chooser, threads, options.seconds)
        print(name, json.dumps(report["types"][name]), flush=True)
        write_result(result_path("rounding_device"), report)


if __name__ == "__main__":
    main()
