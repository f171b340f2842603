"""What `shrink` says beforehand, against what it takes. Writes estimate.json.

Two shapes: gemmule, and two layers of 128 experts at width 1024 with random weights and gemmule's
tokenizer. Each run is a process of its own, which estimates and then works, as a user's does; the
run.json that it leaves has both. Ratios are what a stage took over what was estimated; a bound (the
answers) may be far below 1. Memory is the peak of the process over the estimate's. Other work on
the machine changes between the estimate and the stage, so the load is noted.

    python benchmarks/estimate.py [--rounds 3] [--only gemmule|wide]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import random_models
from goals import result_path, write_result

RESULT = result_path("estimate")
WORKERS = 2
GOAL = 1.3
CASES = ("gemmule", "wide")


def child(case: str, folder: Path) -> None:
    """One run; prints what it told and took as JSON."""
    from secateur import Calibration, Formats, Measuring, Pruning, ShrinkRequest, shrink
    from secateur.checkpoint.hub import gemmule_folder
    from secateur.estimation import stage
    from secateur.system.allocator import return_large_blocks
    from secateur.system.process_use import peak_memory

    return_large_blocks()  # as the command line does
    sets = gemmule_folder() / "sets"
    model: str | Path = "gemmule"
    corpus, answer_tokens, per_domain = "gemmule", 64, 1
    if case == "wide":
        model = folder / "wide"
        mix = folder / "mix.yaml"
        mix.write_text(
            json.dumps(
                {
                    "sequence_length": 512,
                    "sources": [
                        {
                            "name": "some",
                            "path": str(sets / "calibration.jsonl"),
                            "category_field": "domain",
                            "tokens": 6144,
                        }
                    ],
                }
            )
        )
        corpus, answer_tokens, per_domain = str(mix), 8, 1
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    request = ShrinkRequest(
        Pruning(drop=0.25),
        Formats(types=("Q4_K_M",)),
        Calibration(corpus),
        Measuring(prompts=sets / "test.jsonl", per_domain=per_domain, answer_tokens=answer_tokens),
    )
    start = time.perf_counter()
    shrink(model, out, request, workers=WORKERS)
    (run,) = json.loads((out / "run.json").read_text())["runs"]
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "estimate": run["estimate"],
                "wall_seconds": round(time.perf_counter() - start, 1),
                "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
                "peak_bytes": peak_memory(os.getpid()),
                "factor": stage.PROBED,
            }
        )
    )


def measure(case: str, rounds: int) -> dict[str, Any]:
    """All runs of a case, and the ratios of every stage."""
    runs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if case == "wide":
            random_models.wide(folder / "wide")
        for _ in range(rounds):
            # A cache of its own: kept answers and probabilities would leave nothing to take long.
            cache = {"XDG_CACHE_HOME": str(folder / "cache")}
            shutil.rmtree(folder / "cache", ignore_errors=True)
            before = os.getloadavg()[0]
            done = subprocess.run(
                [sys.executable, __file__, "--child", case, str(folder)],
                env=os.environ | cache,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            runs[-1]["load_average"] = [round(before, 1), round(os.getloadavg()[0], 1)]
    ratios: dict[str, list[float]] = {}
    for run in runs:
        for stage in run["estimate"]["stages"]:
            if "took_seconds" in stage:
                ratio = stage["took_seconds"] / max(stage["estimated_seconds"], 1e-3)
                ratios.setdefault(stage["stage"], []).append(round(ratio, 2))
    timed = [
        [stage for stage in run["estimate"]["stages"] if "took_seconds" in stage] for run in runs
    ]
    whole = [
        sum(stage["took_seconds"] for stage in stages)
        / sum(stage["estimated_seconds"] for stage in stages)
        for stages in timed
    ]
    return {
        "rounds": rounds,
        "took_over_estimated": ratios,
        "all_stages": {
            "runs": [round(ratio, 2) for ratio in whole],
            "median": round(statistics.median(whole), 2),
            "within_goal": [1 / GOAL <= ratio <= GOAL for ratio in whole],
        },
        "peak_over_estimated_memory": [
            round(run["peak_bytes"] / run["estimate"]["memory_bytes"], 2) for run in runs
        ],
        "runs": runs,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--only", choices=CASES)
    options.add_argument("--child", nargs=2)
    asked = options.parse_args()
    if asked.child:
        child(asked.child[0], Path(asked.child[1]))
        return
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for case in (asked.only,) if asked.only else CASES:
        found[case] = measure(case, asked.rounds)
        print(case, json.dumps(found[case]["took_over_estimated"]), found[case]["all_stages"])
        write_result(RESULT, {"goal": GOAL, "workers": WORKERS, **found})


if __name__ == "__main__":
    main()
