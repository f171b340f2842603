"""64 workers that fail at a stated rate: what is lost, and how long a calibration takes.

    python benchmarks/cluster_simulation.py [--seeds 400]

A simulation with discrete events, no machines: parts are given out by the queue that the Ray
engine uses (secateur.cluster.parts_queue), workers fail as a Poisson process, what they were making
is lost and waits again at the front, and a worker is back after a repair. The work is that of
paper_plan.json, and a hundred times as much text: every part reads the model and computes its share
of the tokens, whichever takes longer.

It can be checked. With failures at a rate r, a part that takes t without one costs a worker
(exp(r t) - 1) / r of working time on average, because it begins anew after each (Daly 2006, "A
higher order estimate of the optimum checkpoint interval", FGCS 22, with nothing kept in between):
the simulated mean has to agree within its interval. The best length of a part has to be near the
one that minimises its expected cost for each token; with a fixed cost C for each part that is
sqrt(2 C / r) (Young 1974).
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from goals import result_path, write_result
from paper_plan import part_seconds

from secateur.cluster.parts_queue import PartsQueue, Taken

WORKERS = 64
REPAIR = 600.0
"""Seconds until a lost worker is followed by another: a process sooner, a machine later."""
RATES = {
    "one GPU of 16,384 every 3.1 hours": 419 / (54 * 24 * 3600 * 16384),
    "each worker once in 24 hours": 1 / (24 * 3600),
    "each worker once an hour": 1 / 3600,
}
"""Failures of a worker per second. The first is what Meta saw while it trained Llama 3: 419
unexpected interruptions in 54 days on 16,384 H100s ("The Llama 3 Herd of Models", 2024, section
3.3.4). The second is a cheap machine that may be taken away; the third is absurd."""
PARTS = (64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True)
class Cluster:
    """So many workers that fail at a rate (1/s) and are back after `repair` seconds."""

    workers: int
    rate: float
    repair: float


@dataclass
class Outcome:
    """Seconds until all parts were made, worked in vain, and parts begun anew."""

    seconds: float = 0.0
    lost: float = 0.0
    again: int = 0
    attempts: list[int] = field(default_factory=list)


def simulate(cluster: Cluster, parts: int, duration: float, rng: np.random.Generator) -> Outcome:
    """One run: every part takes `duration` seconds of a worker that does not fail meanwhile."""
    queue = PartsQueue(map(str, range(parts)), attempts=None)
    found = Outcome()
    free = [(0.0, worker) for worker in range(cluster.workers)]
    heapq.heapify(free)  # (when, worker) that can take a part
    busy: list[tuple[float, int, Taken, bool, float]] = []
    made = 0
    while made < parts:
        while free and (not busy or free[0][0] <= busy[0][0]):
            if queue.is_empty:
                break
            now, worker = heapq.heappop(free)
            part = queue.take()
            assert part is not None
            until_failure = rng.exponential(1 / cluster.rate) if cluster.rate else math.inf
            fails = until_failure < duration
            heapq.heappush(busy, (now + min(until_failure, duration), worker, part, fails, now))
        now, worker, part, failed, begun = heapq.heappop(busy)
        if failed:
            queue.lost(part)
            found.lost += now - begun
            found.again += 1
            heapq.heappush(free, (now + cluster.repair, worker))
        else:
            made += 1
            found.attempts.append(part.attempt)
            found.seconds = now
            heapq.heappush(free, (now, worker))
        # Who waited meanwhile can take a part no earlier than now.
        if not queue.is_empty and free and free[0][0] < now:
            free = [(max(when, now), number) for when, number in free]
            heapq.heapify(free)
    return found


def expected_lost(rate: float, duration: float) -> float:
    """Seconds of a worker that one part loses on average: (exp(r t) - 1) / r - t."""
    return math.expm1(rate * duration) / rate - duration


def expected_seconds(cluster: Cluster, parts: int, duration: float) -> float:
    """Of all parts on average, if they could be divided evenly: the time of a part with its losses
    and repairs, (1 / r + R) (exp(r t) - 1), for each worker's share of them. A lower bound: at the
    end some workers wait for the last."""
    one = (1 / cluster.rate + cluster.repair) * math.expm1(cluster.rate * duration)
    return one * parts / cluster.workers


def best_part_seconds(work: Any, rate: float) -> float:
    """Young's first-order optimum of a part without its fixed cost: sqrt(2 C / r), where C is what
    every part costs besides its share of the computing: its start."""
    return math.sqrt(2 * float(work["start_seconds"]) / rate)


def measure(work: Any, times: int, seeds: int) -> Iterator[dict[str, Any]]:
    """A row for each rate and number of parts, with so many times the text."""
    work = {**work, "compute_seconds": times * work["compute_seconds"]}
    for words, rate in RATES.items():
        cluster = Cluster(WORKERS, rate, REPAIR)
        for parts in PARTS:
            duration = part_seconds(work, parts)
            runs = [
                simulate(cluster, parts, duration, np.random.default_rng([seed, parts]))
                for seed in range(seeds)
            ]
            seconds = np.array([run.seconds for run in runs])
            lost = np.array([run.lost for run in runs])
            undisturbed = math.ceil(parts / WORKERS) * duration
            yield {
                "text": times,
                "failures": words,
                "rate_per_second": rate,
                "parts": parts,
                "part_seconds": round(duration, 1),
                "part_seconds_by_young": round(best_part_seconds(work, rate)),
                "undisturbed_seconds": round(undisturbed, 1),
                "seconds": _mean(seconds),
                "seconds_95th": round(float(np.quantile(seconds, 0.95)), 1),
                "expected_at_least": round(expected_seconds(cluster, parts, duration), 1),
                "lost_worker_seconds": _mean(lost),
                "lost_expected": round(parts * expected_lost(rate, duration), 1),
                "lost_share": round(float(lost.mean()) / (parts * duration), 5),
                "parts_again": round(float(np.mean([run.again for run in runs])), 3),
                "most_attempts": max(max(run.attempts) for run in runs),
            }


def _mean(values: np.ndarray) -> dict[str, float]:
    """With a 95 % interval of the mean."""
    mean = float(values.mean())
    half = 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return {"mean": round(mean, 1), "low": round(mean - half, 1), "high": round(mean + half, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=400)
    arguments = parser.parse_args()
    plan = json.loads((Path(__file__).parent / "paper_plan.json").read_text("utf-8"))
    rows = []
    for times, seeds in ((1, arguments.seeds), (100, max(2, arguments.seeds // 4))):
        for row in measure(plan["part"], times, seeds):
            print(json.dumps(row), flush=True)
            rows.append(row)
    found = {
        "what": "simulated, no machines: see cluster_simulation.py",
        "workers": WORKERS,
        "repair_seconds": REPAIR,
        "seeds": arguments.seeds,
        "work": plan["part"],
        "rows": rows,
    }
    write_result(result_path("cluster_simulation"), found)


if __name__ == "__main__":
    main()
