"""Every step at the real width of Gemma 4 26B-A4B, with 2, 4 and 8 layers. Writes width.json.

A step is a process of its own that estimates, works as the command does, and is watched: wall and
processor seconds of its stages, peak of resident memory, bytes read from the disk (the model's
files are dropped from the page cache before it estimates), most bytes of temporary files. The
processor's rate in one large float32 product is taken in the same process, before and after. `line`
is the least squares fit through the numbers of layers, and what it says of 30.

    python benchmarks/width.py [FOLDER] [--layers 2 4 8] [--tokens 4096] [--steps calibrate ...]

Steps that are not run again keep what was measured. FOLDER keeps the checkpoints, 27 GB for 2, 4
and 8 layers; what a step writes is removed once all steps of as many layers are done.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from goals import result_path, write_result

RESULT = result_path("width")
WORKERS = 2
ALL_LAYERS = 30
STEPS = ("calibrate", "prune", "gguf", "measure")
DROP = 0.2


class Stages:
    """A Progress that notes how long each stage took, on the clock and in the processor."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self._begun: dict[str, tuple[float, float]] = {}

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        now = time.perf_counter(), time.process_time()
        begun = self._begun.setdefault(stage, now)
        self.seconds[stage], self.cpu[stage] = now[0] - begun[0], now[1] - begun[1]


def product_rate() -> float:
    """Operations a second of a 4096 x 2816 x 4096 product in float32, the best of three."""
    import torch

    torch.set_num_threads(WORKERS)
    left, right = torch.randn(4096, 2816), torch.randn(2816, 4096)
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - begun)
    return 2 * 4096 * 2816 * 4096 / min(times)


def work_of(step: str, folder: Path, layers: int) -> tuple[Callable[[], Any], Callable[..., Any]]:
    """(estimate, work) of a step."""
    import secateur
    from secateur import Calibration, Formats, Measuring, Pruning
    from secateur.api import estimate

    model, stats = folder / f"layers{layers}", folder / f"stats{layers}"
    out = folder / f"{step}{layers}"
    if step == "calibrate":
        stats.unlink(missing_ok=True)
        asked = Calibration(rows=folder / "rows.jsonl", reroute_tokens=0, device="cpu")
        return (
            lambda: estimate.estimate_calibration(model, stats, asked, workers=WORKERS),
            lambda progress: secateur.calibrate(
                model, stats, asked, workers=WORKERS, progress=progress
            ),
        )
    if step == "measure":
        ask = Measuring(rows=folder / "measure.jsonl", held_out=0.5, turns="corpus", device="cpu")
        pruned = folder / f"prune{layers}"
        return (
            lambda: estimate.estimate_measuring(pruned, model, ask, workers=WORKERS),
            lambda progress: secateur.measure(
                pruned, model, ask, workers=WORKERS, progress=progress
            ),
        )
    shutil.rmtree(out, ignore_errors=True)
    formats = Formats(to="safetensors")
    if step == "gguf":
        formats = Formats(to="gguf", types=("Q4_K_M",))
    decided = secateur.plan(model, Pruning(drop=DROP, criterion="reap"), formats, statistics=stats)
    plan = folder / f"{step}{layers}.json"
    secateur.save_plan(decided, plan, force=True)
    return (
        lambda: estimate.estimate_applying(plan, out, workers=WORKERS),
        lambda progress: secateur.apply(
            plan, out, statistics=stats, workers=WORKERS, progress=progress
        ),
    )


def child(step: str, folder: Path, layers: int) -> None:
    """One step; prints what it took as JSON."""
    from secateur.checkpoint.reader import open_checkpoint
    from secateur.system.allocator import return_large_blocks
    from secateur.system.process_use import peak_memory

    return_large_blocks()  # as the command line does
    estimating, working = work_of(step, folder, layers)
    checkpoint = open_checkpoint(folder / f"layers{layers}")
    for shard in checkpoint.shards:  # cold, as on the first day; the estimate finds them so too
        with shard.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    expected = estimating()
    rates = [product_rate()]
    io, stages = read_bytes(), Stages()
    begun, cpu = time.perf_counter(), time.process_time()
    working(progress=stages)
    wall, used = time.perf_counter() - begun, time.process_time() - cpu
    rates.append(product_rate())
    took = {one.name: one.took(stages.seconds) for one in expected.stages}
    told = {one.name: one.seconds for one in expected.stages if took[one.name] is not None}
    print(
        json.dumps(
            {
                "wall_seconds": round(wall, 2),
                "cpu_seconds": round(used, 2),
                "stages": {name: round(value, 2) for name, value in stages.seconds.items()},
                "stages_cpu": {name: round(value, 2) for name, value in stages.cpu.items()},
                "estimated": {name: round(value, 2) for name, value in told.items()},
                "took": {name: round(took[name], 2) for name in told},
                "took_over_estimated": round(
                    sum(took[name] for name in told) / max(sum(told.values()), 1e-9), 2
                ),
                "estimated_memory_gib": round(expected.memory / 2**30, 2),
                "peak_resident_gib": round((peak_memory(os.getpid()) or 0) / 2**30, 2),
                "read_from_disk_gb": round((read_bytes() - io) / 1e9, 2),
                "checkpoint_gb": round(checkpoint.nbytes / 1e9, 2),
                "gflops_of_product": [round(rate / 1e9, 1) for rate in rates],
            }
        )
    )


def read_bytes() -> int:
    """Bytes that this process had fetched from the disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def watch(command: list[str], temporary: Path) -> tuple[dict[str, Any], int]:
    """(what the child says, most bytes of its temporary files)."""
    most = 0
    with (
        tempfile.TemporaryDirectory() as cache,  # nothing is measured already
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary), "XDG_CACHE_HOME": cache},
        ) as process,
    ):
        while process.poll() is None:
            most = max(most, used_by(temporary))
            time.sleep(0.2)
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{command}: exit code {process.returncode}")
    return json.loads(said.splitlines()[-1]), most


def used_by(folder: Path) -> int:
    """Bytes of the files below a folder, while others work in it."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.stat(Path(parent) / name).st_blocks * 512
            except OSError:
                continue
    return total


def fit(points: Mapping[int, float]) -> dict[str, float]:
    """Least squares of value = fixed + per_layer * layers, and what it says of ALL_LAYERS."""
    import numpy as np

    slope, fixed = np.polyfit(list(points), list(points.values()), 1)
    return {
        "fixed": round(float(fixed), 2),
        "per_layer": round(float(slope), 3),
        f"at_{ALL_LAYERS}_layers": round(float(fixed + slope * ALL_LAYERS), 1),
    }


def line_of(runs: Mapping[str, Any], step: str) -> dict[str, Any]:
    """What the runs of a step say of the whole model."""
    mine = {int(key): run for key, run in runs.items()}
    if len(mine) < 2:
        return {}
    names = ("wall_seconds", "cpu_seconds", "peak_resident_gib", "read_from_disk_gb")
    found: dict[str, Any] = {
        name: fit({layers: run[name] for layers, run in mine.items()}) for name in names
    }
    if step == "calibrate":
        for key, stages, at_once in (
            ("share_of_product", "stages", 1),
            ("share_of_product_cpu", "stages_cpu", WORKERS),
        ):
            found[key] = {
                layers: round(
                    run["tflop"] * 1e3 * at_once
                    / run[stages]["calibrate"] / max(run["gflops_of_product"]), 2,
                )
                for layers, run in mine.items()
            }  # fmt: skip
        seconds = fit({layers: run["stages"]["calibrate"] for layers, run in mine.items()})
        tokens = next(iter(mine.values()))["tokens"]
        found["milliseconds_per_token_and_layer"] = round(1e3 * seconds["per_layer"] / tokens, 3)
    return found


def measure(step: str, folder: Path, layers: int, tokens: int) -> dict[str, Any]:
    from random_models import gemma26, random_rows

    from secateur.calibration.cost import cost_of
    from secateur.checkpoint.reader import open_checkpoint
    from secateur.corpus.load import load_rows

    model = gemma26(folder / f"layers{layers}", layers)
    checkpoint = open_checkpoint(model)
    vocab = checkpoint.family.number(checkpoint.config, "vocab")
    rows = random_rows(folder / "rows.jsonl", tokens, vocab, min(tokens, 1024))
    random_rows(folder / "measure.jsonl", tokens, vocab, 128)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        command = [sys.executable, __file__, str(folder), "--child", step, str(layers)]
        found, most = watch(command, Path(temporary))
    if step == "calibrate":
        found["tflop"] = round(cost_of(checkpoint, load_rows(rows, vocab), 0).forward / 1e12, 3)
    return found | {
        "tokens": tokens,
        "temporary_gb": round(most / 1e9, 2),
        "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("out/width"))
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=STEPS)
    parser.add_argument("--child", nargs=2)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], options.folder, int(options.child[1]))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {"runs": {}}
    for layers in options.layers:
        for step in options.steps:
            runs = found["runs"].setdefault(step, {})
            runs[str(layers)] = measure(step, options.folder, layers, options.tokens)
            print(step, layers, json.dumps(runs[str(layers)]), flush=True)
            found["line"] = {name: line_of(one, name) for name, one in found["runs"].items()}
            found |= {"workers": WORKERS, "drop": DROP}
            write_result(RESULT, found)
        for step in options.steps:
            shutil.rmtree(options.folder / f"{step}{layers}", ignore_errors=True)


if __name__ == "__main__":
    main()
