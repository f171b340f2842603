"""`benchmarks/run_all.py`: every benchmark is reached, limits end what takes too long."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import goals
import pytest
import run_all
from run_all import SCRIPTS, ByHand, Quick, Slow

FOLDER = Path(__file__).parents[1] / "benchmarks"
MAIN = 'if __name__ == "__main__":\n    '


def test_every_benchmark_is_reached_or_says_why_not() -> None:
    found = run_all.benchmarks()
    assert set(SCRIPTS) <= set(found)  # no name of a script that is gone
    with_results = {path.stem for path in FOLDER.glob("*.json")} & {
        path.stem for path in FOLDER.glob("*.py")
    }
    assert with_results <= set(found)
    assert not {"goals", "run_all", "gemma4_facts"} & set(found)
    assert all(how.reason for how in SCRIPTS.values() if isinstance(how, Slow))


def test_quick_sizes_take_half_an_hour_at_most() -> None:
    limits = [how.seconds for how in SCRIPTS.values() if isinstance(how, Quick)]
    assert sum(limits) <= run_all.TOTAL


def test_every_goal_of_this_machine_has_a_quick_source() -> None:
    """All but those of a GPU, and those that take a quarter of an hour and more."""
    quick = {name for name, how in SCRIPTS.items() if isinstance(how, Quick)}
    missing = {goal.result for goal in goals.GOALS} - quick
    slow = {name for name in missing if isinstance(SCRIPTS.get(name), Slow)}
    assert missing == slow | {"calibration_rerouted"}  # which calibration.py writes
    assert slow == {"device", "width", "rounding", "rounding_cost", "rounding_speed"}


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of benchmarks of which one never ends, one fails and one does nothing."""
    (tmp_path / "goals.py").write_text((FOLDER / "goals.py").read_text())
    (tmp_path / "sizes.py").write_text(f"{MAIN}import time; time.sleep(600)")
    (tmp_path / "cards.py").write_text(f"{MAIN}raise SystemExit(3)")
    (tmp_path / "dry_run.py").write_text(f"{MAIN}print('no llama.cpp')")
    (tmp_path / "measuring.py").write_text(
        "from goals import result_path, write_result\n"
        "row = {'over_plain_forward': {'cpu': {'gguf': {'all': {'median': 1.4}}}}}\n"
        f"{MAIN}write_result(result_path('measuring'), {{'gemmule': row}})\n"
    )
    monkeypatch.setattr(run_all, "FOLDER", tmp_path)
    monkeypatch.setattr(run_all, "OUT", tmp_path / "out")
    (tmp_path / "device.py").write_text(f"{MAIN}pass")
    (tmp_path / "new.py").write_text(f"{MAIN}pass")
    quick = {"sizes": Quick(1), "cards": Quick(20), "measuring": Quick(60)}
    quick |= {"dry_run": Quick(20, (), "make llama-tools")}
    monkeypatch.setattr(run_all, "SCRIPTS", {**quick, "device": Slow("needs a GPU")})
    return tmp_path


def test_a_quick_run_touches_no_result_of_full_size(
    scripts: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (scripts / "measuring.json").write_text("{}")
    monkeypatch.setattr("sys.argv", ["run_all.py"])
    assert run_all.main() == 1
    assert (scripts / "measuring.json").read_text() == "{}"
    assert json.loads((scripts / "out/measuring.json").read_text())["goals"][0]["met"] is False
    told = capfd.readouterr().out
    row = "| measuring one artefact over a plain fp32 forward | at most 1.3 "
    assert f"{row}| 1.4 | **no** |  | not measured |" in told
    for line in (
        "sizes: ended at its limit of 1 s",
        "cards: failed with exit code 3",
        "dry_run: not run: needs `make llama-tools`",
        "device: not run: needs a GPU",
        "new: not run: no quick size",
        "measuring: ran",
    ):
        assert line in told


def test_the_full_size_is_asked_for(scripts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["run_all.py", "measuring", "--full"])
    assert run_all.main() == 0
    assert json.loads((scripts / "measuring.json").read_text())["goals"]
    assert not (scripts / "out").exists()


@pytest.mark.parametrize("script", run_all.benchmarks())
def test_the_full_size_needs_no_argument(script: str) -> None:
    """What does is run by hand."""
    tree = ast.parse((FOLDER / f"{script}.py").read_text("utf-8"))
    needed = [
        call
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "add_argument"
        and (
            any(one.arg == "required" for one in call.keywords)
            or (
                not ast.literal_eval(call.args[0]).startswith("-")
                and all(one.arg != "nargs" for one in call.keywords)
            )
        )
    ]
    assert not needed or isinstance(SCRIPTS.get(script), ByHand)


def test_what_is_run_by_hand_is_not_run_from_here(
    scripts: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (scripts / "device.py").write_text(f"{MAIN}raise SystemExit(3)")
    monkeypatch.setattr(run_all, "SCRIPTS", {"device": ByHand("needs a GPU")})
    monkeypatch.setattr("sys.argv", ["run_all.py", "--full", "device"])
    assert run_all.main() == 0
    assert "device: not run: needs a GPU" in capfd.readouterr().out


def test_a_name_that_is_no_benchmark_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["run_all.py", "sise"])
    with pytest.raises(SystemExit, match="2"):
        run_all.main()
