"""How long a whole file takes with error feedback, over rounding to nearest: rounding_speed.json.

The checkpoint of gguf_speed.py (Gemma 4 26B-A4B's shapes, two layers, random weights, 2.4 GB),
calibrated on a few rows of random tokens with Gram matrices. Q4_K_M is written to nearest and with
feedback, in turns, by as many threads; wall and processor time of `apply`, which reads, encodes,
syncs and hashes. What is made before the clock starts is kept in FOLDER for another run.

    python benchmarks/rounding_speed.py [FOLDER] [--types Q4_K_M] [--turns 2] [--workers 2]

With --device auto a GPU chooses the codes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from gguf_speed import VOCAB, make_checkpoint
from goals import result_path, write_result

import secateur
from secateur import Calibration, Formats, Pruning
from secateur.statistics.gram_file import gram_path

ROUNDINGS = ("nearest", "feedback")
ROWS, LENGTH = 8, 256


def prepare(folder: Path, workers: int) -> tuple[Path, Path]:
    """(checkpoint, statistics with Gram matrices next to them), made where they are not there."""
    model, observed = folder / "model", folder / "stats.safetensors"
    if not model.exists():
        make_checkpoint(model)
    if not observed.exists():
        rows = folder / "rows.jsonl"
        chance = np.random.default_rng(0)
        lines = [
            json.dumps({"input_ids": chance.integers(0, VOCAB, LENGTH).tolist(), "category": "a"})
            for _ in range(ROWS)
        ]
        rows.write_text("\n".join(lines) + "\n")
        request = Calibration(rows=rows, reroute_tokens=0, gram="own")
        secateur.calibrate(str(model), observed, request, workers=workers)
    return model, observed


def write(
    model: Path, observed: Path, words: tuple[str, Any, str], workers: int, out: Path
) -> tuple[float, float]:
    """(wall, processor) seconds of `apply` of one type and rounding, on a device."""
    kind, rounding, device = words
    formats = Formats(to="gguf", types=kind, rounding=rounding)
    plan = secateur.plan(str(model), Pruning(drop=0.0), formats, statistics=observed)
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter(), time.process_time()
    secateur.apply(plan, out, statistics=observed, workers=workers, device=device)
    return time.perf_counter() - began[0], time.process_time() - began[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("out/rounding_speed"))
    parser.add_argument("--types", default="Q4_K_M")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only-prepare", action="store_true")
    options = parser.parse_args()
    model, observed = prepare(options.folder, options.workers)
    if options.only_prepare:
        return
    report: dict[str, Any] = {
        "checkpoint_bytes": sum(path.stat().st_size for path in model.glob("*.safetensors")),
        "gram_bytes": gram_path(observed).stat().st_size,
        "workers": options.workers,
        "device": options.device,
        "cores": os.cpu_count(),
        "types": {},
    }
    for kind in options.types.split(","):
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in ROUNDINGS}
        for _ in range(options.turns):
            for rounding in ROUNDINGS:
                out = options.folder / "out"
                words = kind, rounding, options.device
                took[rounding].append(write(model, observed, words, options.workers, out))
                shutil.rmtree(out)
                print(kind, rounding, took[rounding][-1], flush=True)
        entry: dict[str, Any] = {}
        for place, name in enumerate(("wall_seconds", "cpu_seconds")):
            found = {one: [round(t[place], 1) for t in took[one]] for one in ROUNDINGS}
            nearest, feedback = (statistics.median(found[one]) for one in ROUNDINGS)
            entry[name] = found
            entry[name.replace("seconds", "ratio")] = round(feedback / nearest, 2)
        report["types"][kind] = entry
        write_result(result_path("rounding_speed"), report)
    print(json.dumps(report["types"], indent=1))


if __name__ == "__main__":
    main()
