"""How fast pruning writes, against `cp` of the same output. Writes pruning.json beside itself.

The checkpoint has Gemma 4 26B-A4B's shapes with fewer layers and random weights; 90 of 128
experts are kept. Both sides write the same files to the same disk, in turns within one run, with
and without waiting for the disk (fsync), from a warm page cache and from a cold one. Ratios of
medians and of the best runs are given. On a machine that others use, give the shell a session
and a priority of its own first: `setsid`, `echo -15 > /proc/self/autogroup`.

    python benchmarks/pruning.py [FOLDER] [--layers 2] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gemma4_facts
from goals import result_path, write_result
from random_models import random_model

from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.checkpoint.writer import Layout, lay_out, write_shards
from secateur.pruning.expert_slices import select_experts
from secateur.system.workdir import complete_or_absent

EXPERTS, KEPT = 128, 90
SHARD_LIMIT = 1_000_000_000
"""Bytes: several shards, as the whole model has, though it is cut down."""


def forget(folder: Path) -> None:
    """Drop the folder's files from the page cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy(source: Path, target: Path, durable: bool) -> None:
    target.mkdir()
    subprocess.run(["cp", *map(str, sorted(source.iterdir())), str(target)], check=True)
    if durable:
        subprocess.run(["sync", *map(str, sorted(target.iterdir())), str(target)], check=True)


def prune(layout: Layout, target: Path, durable: bool) -> None:
    if durable:
        with complete_or_absent(target) as folder:
            write_shards(folder, layout)
    else:
        target.mkdir()
        write_shards(target, layout)


def timed(action: Callable[[], None]) -> dict[str, float]:
    def cpu() -> float:
        both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in both)

    before, started = cpu(), time.perf_counter()
    action()
    return {"seconds": time.perf_counter() - started, "cpu_seconds": cpu() - before}


def measure(folder: Path, checkpoint: Checkpoint, rounds: int) -> dict[str, object]:
    kept = {
        layer: sorted(random.Random(layer).sample(range(EXPERTS), KEPT))
        for layer in checkpoint.moe_layers
    }
    layout = lay_out(select_experts(checkpoint, kept), SHARD_LIMIT)
    tensors = [tensor for shard in layout.shards for tensor in shard.tensors]
    unchecked = lay_out((replace(tensor, allowed="any") for tensor in tensors), SHARD_LIMIT)
    single = lay_out(tensors)
    reference, target = folder / "reference", folder / "target"
    prune(layout, reference, durable=True)
    ways: dict[str, Callable[[], None]] = {
        "cp": lambda: copy(reference, target, False),
        "prune": lambda: prune(layout, target, False),
        "prune, weights not checked": lambda: prune(unchecked, target, False),
        "cp + fsync": lambda: copy(reference, target, True),
        "prune + fsync": lambda: prune(layout, target, True),
        "prune + fsync, one shard": lambda: prune(single, target, True),
    }
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    for turn in range(rounds):
        for cache in ("warm", "cold"):
            # The order turns, so that nobody always follows the same neighbour.
            names = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
            for name in names:
                if cache == "cold":
                    forget(reference)
                    forget(checkpoint.path)
                else:
                    subprocess.run(
                        f"cat {reference}/* {checkpoint.path}/*.safetensors > /dev/null",
                        shell=True,
                        check=True,
                    )
                os.sync()
                result = timed(ways[name])
                results.setdefault(cache, {}).setdefault(name, []).append(result)
                print(f"{turn} {cache} {name}: {result}", file=sys.stderr)
                shutil.rmtree(target)
    return {"output_bytes": layout.nbytes, "results": summary(layout.nbytes, results)}


def summary(
    nbytes: int, results: dict[str, dict[str, list[dict[str, float]]]]
) -> dict[str, object]:
    out: dict[str, object] = {}
    for cache, by_name in results.items():
        seconds = {name: [run["seconds"] for run in runs] for name, runs in by_name.items()}

        def ratio(
            ours: str, theirs: str, seconds: dict[str, list[float]] = seconds
        ) -> dict[str, float]:
            """Throughput of ours over theirs."""
            return {
                how.__name__: round(how(seconds[theirs]) / how(seconds[ours]), 3)
                for how in (statistics.median, min)
            }

        out[cache] = {
            "median": {
                name: {
                    "seconds": round(statistics.median(seconds[name]), 2),
                    "cpu_seconds": round(statistics.median(r["cpu_seconds"] for r in runs), 2),
                    "gb_per_second": round(nbytes / statistics.median(seconds[name]) / 1e9, 2),
                }
                for name, runs in by_name.items()
            },
            "all_seconds": {k: [round(v, 2) for v in runs] for k, runs in seconds.items()},
            "throughput_of_prune_over_cp": ratio("prune", "cp"),
            "throughput_of_prune_over_cp_both_fsynced": ratio("prune + fsync", "cp + fsync"),
            "throughput_of_one_shard_over_cp_both_fsynced": ratio(
                "prune + fsync, one shard", "cp + fsync"
            ),
            "throughput_with_check_over_without": ratio("prune", "prune, weights not checked"),
        }
    return out


def machine() -> dict[str, object]:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    names = {line.split(":")[1].strip() for line in cpuinfo.splitlines() if "model name" in line}
    return {
        "cpu": sorted(names),
        "sha_ni": "sha_ni" in cpuinfo,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("out/pruning"),
        help="where to work: needs 15 GB, made and removed (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    try:
        before = machine()
        model = random_model(options.folder / "source", gemma4_facts.CONFIG, options.layers)
        checkpoint = open_checkpoint(model)
        result = measure(options.folder, checkpoint, options.rounds)
    finally:
        shutil.rmtree(options.folder)
    report = {
        "what": f"prune {EXPERTS} to {KEPT} experts, {options.layers} layers of Gemma 4 26B-A4B",
        "source_bytes": checkpoint.nbytes,
        "rounds": options.rounds,
        "machine": before,
        **result,
    }
    write_result(result_path("pruning"), report)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
