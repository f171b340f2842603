"""How much memory calibrating a model of Gemma 4 26B-A4B's size takes. Writes memory.json.

The checkpoint has the real layers (128 experts, hidden 2816) with random bf16 weights, fewer of
them, the last one of full attention as in the real model, and a vocabulary cut to 8192. A child
process calibrates on rows of random ids; its resident memory is sampled, split into anonymous and
file-mapped, with the peak of every layer: what a further layer adds would show there.

    python benchmarks/memory.py [FOLDER] [--layers 4] [--rows 16] [--reroute-tokens 16384]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from goals import result_path, write_result
from random_models import gemma26, random_rows

from secateur.checkpoint.reader import open_checkpoint

VOCAB, ROW = 8192, 2048
CASE = ("layers", "reroute_tokens", "tokens")
"""What tells one result from another; the same case again takes its place."""


def make(folder: Path, layers: int, rows: int) -> int:
    """Write the checkpoint and the rows; returns the bytes of the weights."""
    model = gemma26(folder / "model", layers, vocab_size=VOCAB, vocab_size_per_layer_input=VOCAB)
    random_rows(folder / "rows.jsonl", rows * ROW, VOCAB, ROW)
    return open_checkpoint(model).nbytes


def child(folder: Path, rows: Path, reroute: int) -> None:
    """Calibrate, telling the layers done."""
    from secateur.calibration.layer_pass import calibrate
    from secateur.calibration.token_sample import Sampling
    from secateur.corpus.load import load_rows
    from secateur.forward.backends.cpu import CpuBackend
    from secateur.system.allocator import return_large_blocks

    return_large_blocks()  # as the command line does
    checkpoint, corpus = open_checkpoint(folder), load_rows(rows, VOCAB)
    print("layer 0", flush=True)
    told = [0]

    def tell(stage: str, done: int, total: int, unit: str) -> None:
        layer = done * checkpoint.layers // total
        if layer > told[-1]:
            told.append(layer)
            print(f"layer {layer}", flush=True)

    calibrate(checkpoint, corpus, sampling=Sampling(reroute), backend=CpuBackend(2), progress=tell)


def status(pid: int) -> dict[str, int]:
    """Resident memory in bytes, by kind."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines if line.startswith(("VmRSS", "VmHWM", "Rss")))
    return {name: int(value.split()[0]) << 10 for name, value in found.items()}


def watch(command: list[str]) -> dict[str, Any]:
    """Run the child and sample its memory four times a second."""
    start = time.perf_counter()
    layer, peaks, seconds = -1, {}, {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        while process.poll() is None:
            for line in iter(process.stdout.readline, ""):
                if line.startswith("layer "):
                    layer = int(line.split()[1])
                    seconds[f"layer {layer}"] = round(time.perf_counter() - start, 1)
            try:
                now = status(process.pid)
            except (OSError, IndexError):
                break
            peak = peaks.setdefault(f"layer {layer}" if layer >= 0 else "start", {})
            for name, nbytes in now.items():
                peak[name] = max(peak.get(name, 0), nbytes)
            time.sleep(0.25)
    # Not ru_maxrss: a child begins with the peak of the parent that forked it.
    return {
        "peak_resident_mib": max(peak.get("VmHWM", 0) for peak in peaks.values()) >> 20,
        "peaks_mib": {
            part: {name: value >> 20 for name, value in peak.items()}
            for part, peak in peaks.items()
        },
        "reached_after_seconds": seconds,
        "exit_code": process.returncode,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("out/memory"))
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--reroute-tokens", type=int, default=16384)
    parser.add_argument("--child", action="store_true")
    options = parser.parse_args()
    rows = options.folder / "rows.jsonl"
    if options.child:
        child(options.folder / "model", rows, options.reroute_tokens)
        return
    try:
        nbytes = make(options.folder, options.layers, options.rows)
        found = watch([sys.executable, *sys.argv, "--child"])
    finally:
        shutil.rmtree(options.folder)
    found |= {
        "layers": options.layers,
        "checkpoint_bytes": nbytes,
        "vocabulary": VOCAB,
        "tokens": options.rows * ROW,
        "reroute_tokens": options.reroute_tokens,
        "workers": 2,
        "torch": version("torch"),
    }
    path = result_path("memory")
    known = json.loads(path.read_text())["runs"] if path.exists() else []
    others = [run for run in known if any(run[key] != found[key] for key in CASE)]
    runs = sorted([*others, found], key=lambda run: (-run["tokens"], -run["layers"]))
    write_result(path, {"runs": runs})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
