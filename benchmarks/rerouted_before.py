"""What `rerouted` chooses, against what it chose in another checkout. Writes rerouted_before.json.

Divergence of gemmule without what each drops from gemmule itself, on the held-out documents of
criteria.py, and its ratio, document by document; intervals are 95 %.

    python benchmarks/rerouted_before.py --before CHECKOUT [--tokens 3000] [--workers 2]

CHECKOUT is a git worktree of an older commit; without one there is nothing to do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from criteria import Masked, divergence, held_out, mean_of, part, provenance, ratio_of, read_sets
from goals import result_path

from secateur.calibration.layer_pass import calibrate
from secateur.checkpoint.reader import open_checkpoint
from secateur.forward.backends.cpu import CpuBackend
from secateur.pruning.choose import Pruning, choose

DROPPED = (0.125, 0.25, 0.5)
Keep = Mapping[int, tuple[int, ...]]
"""{layer: experts that stay}"""
CODE = """
import json, pathlib, sys
sys.path.insert(0, "benchmarks")
import criteria
checkpoint = criteria.open_checkpoint("gemmule")
statistics = criteria.calibrate(checkpoint, criteria.read_sets(checkpoint, "calibration"))
requests = [criteria.Pruning(drop=d, criterion="rerouted") for d in json.loads(sys.argv[2])]
keep = [criteria.choose(checkpoint, statistics, request).keep for request in requests]
pathlib.Path(sys.argv[1]).write_text(json.dumps(keep))
"""
"""Run in the other checkout: what stays, for every share dropped."""


def keep_before(tree: Path) -> list[Keep]:
    """What `rerouted` of another checkout keeps, for every share of DROPPED."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keep.json"
        environment = os.environ | {"PYTHONPATH": str(tree)}
        command = [sys.executable, "-c", CODE, str(path), json.dumps(DROPPED)]
        subprocess.run(command, cwd=tree, env=environment, check=True)
        return [
            {int(layer): tuple(kept) for layer, kept in keep.items()}
            for keep in json.loads(path.read_text())
        ]


def count_differing(now: Keep, before: Keep) -> dict[str, int]:
    kept = sum(len(experts) for experts in now.values())
    differing = sum(len(set(now[layer]) - set(before[layer])) for layer in now)
    return {"experts_kept": kept, "of_them_not_kept_before": differing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="checkout of the code to compare with")
    parser.add_argument("--tokens", type=int, default=3000, help="held-out tokens per domain")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.before is None:
        return
    torch.set_num_threads(options.workers)
    checkpoint = open_checkpoint("gemmule")
    commit = subprocess.run(
        ["git", "-C", str(options.before), "rev-parse", "HEAD"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    before = keep_before(options.before)
    corpus = read_sets(checkpoint, "calibration")
    statistics = calibrate(checkpoint, corpus, backend=CpuBackend(options.workers))
    test = part(read_sets(checkpoint, "test"), lambda _, so_far: so_far < options.tokens)
    model = Masked(checkpoint)
    data = held_out(model, test)
    rows: list[dict[str, Any]] = []
    for dropped, old in zip(DROPPED, before, strict=True):
        new = choose(checkpoint, statistics, Pruning(drop=dropped, criterion="rerouted")).keep
        now, then = (divergence(model, data, keep) for keep in (new, old))
        rows.append({
            "dropped": dropped,
            **count_differing(new, old),
            "divergence": mean_of(data, now),
            "divergence_before": mean_of(data, then),
            "ratio": ratio_of(now, then),
        })  # fmt: skip
        print(rows[-1], file=sys.stderr, flush=True)
    report = {
        "what": "mean KL(original || pruned) in nats per token on held-out documents of gemmule",
        **provenance(checkpoint),
        "before": commit,
        "documents": len(data.tokens),
        "tokens": int(data.tokens.sum()),
        "rows": rows,
    }
    result_path("rerouted_before").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
