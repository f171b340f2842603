"""How much memory calibrating a model of Gemma 4 26B-A4B's size takes. Writes memory.json.

The checkpoint has the real layers (128 experts, hidden 2816) with random bf16 weights, fewer of
them, and a vocabulary cut to 8192. A child process calibrates on rows of random ids; its resident
memory is sampled, split into anonymous and file-mapped, with the peak of every layer: what a
further layer adds would show there.

    python benchmarks/memory.py [FOLDER] [--layers 3] [--rows 16] [--reroute-tokens 0]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gemma4_facts
import numpy as np
import torch
from goals import result_path, write_result
from safetensors.torch import save_file

VOCAB, ROW = 8192, 2048
CASE = ("layers", "reroute_tokens", "tokens")
"""What tells one result from another; the same case again takes its place."""


def make(folder: Path, layers: int) -> int:
    """Write the checkpoint, one shard a layer; returns its bytes."""
    import transformers

    folder.mkdir(parents=True)
    text = copy.deepcopy(gemma4_facts.CONFIG["text_config"])
    kinds = text["layer_types"]
    text |= {
        "model_type": "gemma4_text",
        "architectures": ["Gemma4ForCausalLM"],
        "num_hidden_layers": layers,
        "vocab_size": VOCAB,
        "vocab_size_per_layer_input": VOCAB,
        # The real order is five sliding layers, then a full one; the last one here is full too.
        "layer_types": [*kinds[: layers - 1], "full_attention"],
    }
    text.pop("per_layer_config", None)
    (folder / "config.json").write_text(json.dumps(text))
    built = transformers.Gemma4TextConfig.from_dict(text)
    with torch.device("meta"):
        state = transformers.Gemma4ForCausalLM(built).state_dict()
    shapes = {name: tensor.shape for name, tensor in state.items() if name != "lm_head.weight"}
    shards: dict[str, list[str]] = {}
    for name in shapes:
        part = name.split(".")[2] if ".layers." in name else "outside"
        shards.setdefault(f"model-{part}.safetensors", []).append(name)
    total = 0
    for shard, names in shards.items():
        tensors = {name: random(shapes[name], "norm" in name) for name in names}
        total += sum(tensor.nbytes for tensor in tensors.values())
        save_file(tensors, folder / shard, metadata={"format": "pt"})
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def random(shape: torch.Size, norm: bool) -> torch.Tensor:
    if norm or len(shape) < 2:
        return torch.ones(shape, dtype=torch.bfloat16)
    tensor = torch.empty(shape, dtype=torch.bfloat16)
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    flat = tensor.view(-1)
    for start in range(0, flat.numel(), block.numel() - 7):  # an odd step: no two rows alike
        part = flat[start : start + block.numel()]
        part.copy_(block[: part.numel()])
    return tensor


def child(folder: Path, rows: Path, reroute: int) -> None:
    """Calibrate, telling the layers done."""
    from secateur.calibration.layer_pass import calibrate
    from secateur.calibration.token_sample import Sampling
    from secateur.checkpoint.reader import open_checkpoint
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
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--reroute-tokens", type=int, default=0)
    parser.add_argument("--child", action="store_true")
    options = parser.parse_args()
    rows = options.folder / "rows.jsonl"
    if options.child:
        child(options.folder / "model", rows, options.reroute_tokens)
        return
    try:
        nbytes = make(options.folder / "model", options.layers)
        draw = np.random.default_rng(0)
        ids = draw.integers(4, VOCAB, (options.rows, ROW)).tolist()
        rows.write_text("\n".join(json.dumps({"input_ids": row}) for row in ids))
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
        "torch": torch.__version__,
    }
    path = result_path("memory")
    known = json.loads(path.read_text())["runs"] if path.exists() else []
    others = [run for run in known if any(run[key] != found[key] for key in CASE)]
    write_result(path, {"runs": [*others, found]})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
