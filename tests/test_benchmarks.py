"""The scripts under benchmarks/ and their results: what they ask for, and how goals are stated."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import goals
import pytest

from secateur import Pruning

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_asks_for_nothing_that_is_gone(script: Path) -> None:
    assert importlib.import_module(script.stem).__doc__


def test_every_criterion_that_is_compared_can_be_asked_for() -> None:
    for asked in importlib.import_module("criteria").CRITERIA.values():
        assert Pruning(drop=0.25, **asked).settings


@pytest.mark.parametrize("goal", goals.GOALS, ids=lambda goal: goal.name)
def test_a_result_states_how_it_stands_to_its_goals(goal: goals.Goal) -> None:
    """And what it states follows from what it measured."""
    assert (FOLDER / f"{goal.result}.py").exists() or goal.result == "calibration_rerouted"
    found = json.loads((FOLDER / f"{goal.result}.json").read_text())
    stated = found.pop("goals", None)
    assert stated == goals.statuses(goal.result, found), "run `python benchmarks/goals.py`"
    (status,) = (one for one in stated if one["goal"] == goal.name)
    assert status["value"] is not None


@pytest.mark.parametrize(
    ("value", "at_least", "met"),
    [([1.0, 1.3], False, True), ([1.0, 1.31], False, False), ([2.0, 1.29], True, False),
     ([2.0, 1.3], True, True), ([float("nan")], False, False)],
)  # fmt: skip
def test_the_worst_number_decides(value: list[float], at_least: bool, met: bool) -> None:
    goal = goals.Goal("it", "it", 1.3, lambda found: found["it"], at_least)
    assert goal.status({"it": value})["met"] is met
    assert goal.status({}) == {
        "goal": "it", "limit": goal.describe(), "value": None, "met": None,
    }  # fmt: skip


def test_goals_that_are_no_number_are_held_by_tests() -> None:
    for test in goals.PROVED_BY_TESTS.values():
        assert (FOLDER.parent / test).is_file()


def test_a_quick_result_is_written_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert goals.result_path("measuring") == FOLDER / "measuring.json"
    monkeypatch.setenv(goals.OUT_VARIABLE, str(tmp_path / "quick"))
    path = goals.result_path("measuring")
    assert path == tmp_path / "quick/measuring.json"
    row = {"over_plain_forward": {"cpu": {"gguf": {"all": {"median": 1.25}}}}}
    goals.write_result(path, {"gemmule": row})
    (status,) = json.loads(path.read_text())["goals"]
    assert (status["value"], status["met"]) == (1.25, True)
