"""The scripts under benchmarks/ and their results: what they ask for, and how goals are stated."""

from __future__ import annotations

import ast
import importlib
import json
import re
from pathlib import Path

import goals
import pytest

from secateur import Pruning

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
ROOT = FOLDER.parent
USAGE = re.compile(r"python ((?:benchmarks|gemmule)/[\w/]+\.py)((?:\\\n|\n +(?=\[)|[^\n`#])*)")
"""A script of ours in a docstring or a page, and what stands after it."""
TEXTS = [
    path
    for folder in ("benchmarks", "gemmule", "docs", "secateur/gemmule")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".md") and USAGE.search(path.read_text("utf-8"))
]
"""All files that show how a script is run."""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_asks_for_nothing_that_is_gone(script: Path) -> None:
    assert importlib.import_module(script.stem).__doc__


def options_of(script: Path) -> set[str]:
    """What a script's parser takes, as its code has it."""
    return {
        name.value
        for call in ast.walk(ast.parse(script.read_text("utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument"
        for name in call.args
        if isinstance(name, ast.Constant)
    }


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_usage_names_scripts_and_options_that_there_are(path: Path) -> None:
    for script, words in USAGE.findall(path.read_text("utf-8")):
        assert (ROOT / script).is_file(), script
        named = set(re.findall(r"(?<=[ \[])--?[a-z][\w-]*", words))
        assert named <= options_of(ROOT / script), script


def test_a_usage_of_an_option_that_is_gone_is_found() -> None:
    text = "`python benchmarks/width.py [FOLDER] [--layers 2]\n    [--gone 3]` (-x)"
    ((script, words),) = USAGE.findall(text)
    assert (script, words.split()[-2:]) == ("benchmarks/width.py", ["[--gone", "3]"])
    assert {"--layers", "folder"} <= options_of(ROOT / script) and "--gone" not in options_of(
        ROOT / script
    )


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
