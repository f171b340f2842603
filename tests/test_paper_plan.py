"""The plan on paper follows from what was measured, and the simulation from its formulas."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from cluster_simulation import Cluster, expected_lost, expected_seconds, simulate
from paper_plan import part_seconds, plan_of

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def read(name: str) -> dict:
    return json.loads((BENCHMARKS / f"{name}.json").read_text("utf-8"))


def test_the_plan_is_what_the_measured_rates_give() -> None:
    found = {key: value for key, value in read("paper_plan").items() if key != "goals"}
    made = json.loads(json.dumps(plan_of(read("device"))))
    assert found == made
    # Kimi K2's own page: 1 T parameters, 32 B of them for a token.
    assert 1.0e12 < made["parameters"] < 1.05e12 and 31e9 < made["active"] < 34e9
    assert read("cluster_simulation")["work"] == made["part"]


def test_nothing_is_lost_without_failures() -> None:
    found = simulate(Cluster(4, 0.0, 600.0), 10, 100.0, np.random.default_rng(0))
    assert (found.seconds, found.lost, found.again) == (300.0, 0.0, 0)
    assert found.attempts == [1] * 10


def test_what_is_lost_is_what_the_formula_says() -> None:
    cluster, parts, duration = Cluster(8, 1 / 500, 60.0), 40, 200.0
    runs = [simulate(cluster, parts, duration, np.random.default_rng(n)) for n in range(200)]
    lost = np.array([run.lost for run in runs])
    error = lost.std(ddof=1) / math.sqrt(len(runs))
    assert lost.mean() == pytest.approx(
        parts * expected_lost(cluster.rate, duration), abs=4 * error
    )
    again = np.array([run.again for run in runs])
    tries = parts * math.expm1(cluster.rate * duration)
    assert again.mean() == pytest.approx(tries, abs=4 * again.std(ddof=1) / math.sqrt(len(runs)))
    seconds = np.mean([run.seconds for run in runs])
    assert expected_seconds(cluster, parts, duration) < seconds
    assert all(run.seconds >= parts / cluster.workers * duration for run in runs)
    assert all(sum(run.attempts) == parts + run.again for run in runs)


def test_the_simulated_rows_agree_with_the_formulas() -> None:
    for row in read("cluster_simulation")["rows"]:
        lost = row["lost_worker_seconds"]
        half = max((lost["high"] - lost["low"]) / 1.96 * 4 / 2, 1e-9)
        seldom = row["lost_expected"] * row["rate_per_second"] < 0.05  # too few to have a spread
        assert seldom or abs(lost["mean"] - row["lost_expected"]) <= half
        assert row["seconds"]["mean"] >= row["undisturbed_seconds"]


def test_a_part_takes_as_long_as_reading_or_computing() -> None:
    work = {"start_seconds": 1.0, "read_seconds": 10.0, "compute_seconds": 100.0}
    assert [part_seconds(work, parts) for parts in (5, 10, 20)] == [21.0, 11.0, 11.0]
